"""`python -m eval.lm_eval`: lm-eval's own command."""

from lm_eval.__main__ import cli_evaluate

from common.command import guarded

if __name__ == "__main__":
    guarded(cli_evaluate)
