"""The model `zoo`: a run of this project or a Hugging Face folder, as lm-eval makes models."""

import inspect
from typing import get_type_hints

import lm_eval.models  # noqa: F401 - lm-eval registers its own models only where it knows of none
from lm_eval.api.registry import register_model

from common.errors import nearest
from common.shapes import mismatch
from eval.language_model import HarnessModel
from eval.subject import open_subject
from models import ModelError
from storage.machine import default_device

DEFAULT = "cuda:0"
"""The device that lm-eval's command asks for where nobody named one."""


@register_model("zoo")
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
            ModelError: an argument that does not exist or is of another type, no run, or a run that cannot be opened.
        """
        known = [name for name in inspect.signature(type(self)).parameters if name != "unknown"]
        for name in unknown:
            raise ModelError(f"--model zoo has no argument {name!r}{nearest(name, known)}")
        if run is None:
            raise ModelError("--model zoo needs --model_args run=RUN")
        typed = {
            "step": step,
            "dtype": dtype,
            "max_length": max_length,
            "bos": bos,
            "batch_tokens": batch_tokens,
        }
        kinds = get_type_hints(type(self).__init__)
        for name, value in typed.items():
            if problem := mismatch(value, kinds[name], name):
                raise ModelError(f"--model_args: {problem}")
        place = str(default_device()) if device in (None, DEFAULT) else str(device)
        subject = open_subject(str(run), step=step, device=place, dtype=dtype, batch_tokens=batch_tokens)
        super().__init__(subject, max_length, bos)
