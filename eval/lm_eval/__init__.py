"""lm-eval with one model more: `zoo`, a run of this project or a Hugging Face folder.

python -m eval.lm_eval --model zoo --model_args run=runs/micro-softmax --tasks mine --include_path tasks --log_samples

All subcommands and options are lm-eval's. Its command `lm_eval` looks models up in a table of its own, which an
installed package cannot add to; importing this package adds to it for `lm_eval.simple_evaluate(model="zoo", ...)`.
"""

from eval.lm_eval.model import ZooModel

__all__ = ["ZooModel"]
