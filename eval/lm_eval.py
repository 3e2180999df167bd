"""lm-eval's own command with one model more: `zoo`, a run of this project or a Hugging Face folder.

python -m eval.lm_eval --model zoo --model_args run=runs/micro-softmax --tasks mine --include_path tasks --log_samples

All subcommands and options are lm-eval's. Its command `lm_eval` looks models up in a table of its own, which an
installed package cannot add to; importing this module adds to it for `lm_eval.simple_evaluate(model="zoo", ...)`.
"""

import inspect

import lm_eval.models  # noqa: F401 - lm-eval registers its own models only where it knows of none
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from common.command import guarded
from common.errors import nearest
from eval.language_model import HarnessModel
from eval.subject import open_subject
from models import ModelError
from storage.machine import default_device

DEFAULT = "cuda:0"
"""The device that lm-eval's command asks for where nobody named one."""


class ZooModel(HarnessModel):
    """A subject by its path, as lm-eval makes models from `--model_args`."""

    def __init__(
        self,
        run: str | None = None,
        *,
        step: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        max_length: int | None = None,
        bos: bool | None = None,
        batch_tokens: int = 8192,
        batch_size: object = None,
        max_batch_size: object = None,
        **unknown: object,
    ) -> None:
        """Open the subject.

        Args:
            run: run directory, Hugging Face folder or `package:NAME`.
            step, dtype, batch_tokens: as of `eval.subject.open_subject`.
            device: the default of lm-eval's command stands for the best that is here.
            max_length, bos: as of `HarnessModel`.
            batch_size, max_batch_size: given by lm-eval's command, not used: no score depends on what shares a batch.
            unknown: refused.

        Raises:
            ModelError: an argument that does not exist, no run, or a run that cannot be opened.
        """
        known = [name for name in inspect.signature(type(self)).parameters if name != "unknown"]
        for name in unknown:
            raise ModelError(f"--model zoo has no argument {name!r}{nearest(name, known)}")
        if run is None:
            raise ModelError("--model zoo needs --model_args run=RUN")
        place = str(default_device()) if device in (None, DEFAULT) else str(device)
        subject = open_subject(str(run), step=step, device=place, dtype=dtype, batch_tokens=batch_tokens)
        super().__init__(subject, max_length, bos)


if __name__ == "__main__":
    import eval.lm_eval  # noqa: F401 - the model is registered once, under the name of its module

    guarded(cli_evaluate)
else:
    register_model("zoo")(ZooModel)
