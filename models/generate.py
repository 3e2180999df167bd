"""Write text with a trained model: `python -m models.generate runs/NAME --prompt "To be"`.

Only a command: the function is `models.generate(...)`.
"""

import argparse
import io
import os
import sys

from common.command import Parser, UsageError, guarded


def main() -> None:
    """Parse the command line, then print prompt and continuation as the tokens are drawn.

    The text ends where the model ends the document, or after so many tokens.
    """
    arguments = _parser().parse_args()

    import torch

    from models.compiling import check_compiler
    from models.sampling import readable, stream
    from storage import load_run
    from storage.machine import default_device, device_named

    device = device_named(arguments.device) if arguments.device else default_device()
    if arguments.compile:
        check_compiler(device, "--compile")
    run = load_run(arguments.run, arguments.step, device)
    prompt = run.tokenizer.encode(_typed(arguments.prompt), bos=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character gets its code instead of no text at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    steps = stream(
        run.model,
        torch.tensor([prompt], device=device),
        arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        top_n_sigma=arguments.top_n_sigma,
        seed=arguments.seed,
        stop=run.tokenizer.bos,
        compile_step=arguments.compile,
    )
    for text in readable(run.tokenizer.decode, prompt, (int(step) for step in steps)):
        print(text, end="", flush=True)
    print()


def _typed(text: str) -> str:
    """A text of the command line, which is UTF-8 whatever the locale says.

    Raises:
        UsageError: it is not.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise UsageError(f"--prompt {text!a} is not UTF-8 text: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m models.generate", description="Write text with a trained model.")
    parser.add_argument("run", help="run directory")
    parser.add_argument("--prompt", default="", help="the text to continue (default: start a document)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=200,
        help="at most; fewer where the model ends the document (default: 200)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the most likely token")
    parser.add_argument("--top-k", type=int, help="draw among the k most likely tokens")
    parser.add_argument("--top-p", type=float, help="draw among the fewest tokens that have this probability")
    parser.add_argument(
        "--min-p", type=float, help="draw among tokens at least this many times as likely as the likeliest"
    )
    parser.add_argument(
        "--top-n-sigma",
        type=float,
        help="draw among tokens whose logits are at most so many standard deviations below the largest",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the step of one token first, which takes a minute or so and pays for long texts",
    )
    parser.add_argument("--step", type=int, help="checkpoint (default: the latest)")
    parser.add_argument("--device", help="default: the accelerator, if there is one")
    return parser


if __name__ == "__main__":
    guarded(main)
