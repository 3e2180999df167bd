"""Whether every mechanism learns: the nano preset on Shakespeare's tragedies, against the frequencies of its tokens.

    python -m benchmarks.learn                                         # every mechanism, a few minutes each on a laptop
    python -m benchmarks.learn --mechanisms softmax relu --steps 100   # a look

The runs are those of configs/demo/base.yaml with another mechanism, kept in runs/learn/; a second call goes on where
the first stopped.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import attention
from attention.markdown import table
from benchmarks.machine import describe, facts
from benchmarks.publish import publish
from common.command import Parser, guarded
from data import Prepared, prepare
from storage import log
from training import Config, load, train

CONFIG = "configs/demo/base.yaml"


@dataclass
class Learned:
    """The outcome of a run: bits per byte of held-out text, before and after training."""

    mechanism: str
    before: float
    after: float


def configured(mechanism: str, steps: int) -> Config:
    """The run of one mechanism."""
    name = f"{mechanism}-{steps}"
    overrides = [f"name={name}", "out=runs/learn", f"model.attention={mechanism}", f"train.steps={steps}"]
    return load(CONFIG, [*overrides, f"train.warmup_steps={min(50, steps // 2)}", "train.tracker=none"])


def learn(mechanism: str, steps: int) -> Learned:
    """Train, or read what a finished run recorded."""
    records = log.read(train(configured(mechanism, steps), resume=True))
    bits = [record["bits_per_byte"] for record in records if "bits_per_byte" in record]
    return Learned(mechanism, bits[0], bits[-1])


def unigram(prepared: Prepared) -> float:
    """Bits per byte of held-out text by the frequencies of tokens in the training text, each counted once more."""
    tokenizer, valid = prepared.tokenizer, prepared.valid
    counts = {}
    for split, shard in (("train", prepared.train), ("valid", valid)):
        counts[split] = np.bincount(shard.tokens, minlength=tokenizer.vocab_size)
        counts[split][tokenizer.bos] = 0  # never predicted
    frequency = (counts["train"] + 1) / (counts["train"] + 1).sum()
    return -float(counts["valid"] @ np.log2(frequency)) / valid.n_bytes


def page(learned: list[Learned], floor: float, steps: int) -> str:
    """The table in Markdown, the machine first, then the best."""
    rows = [
        [x.mechanism, f"{x.before:.3f}", f"{x.after:.3f}", "yes" if x.after < floor else "**no**"]
        for x in sorted(learned, key=lambda x: x.after)
    ]
    parts = [
        "# Whether every mechanism learns",
        f"{describe()}.",
        f"The nano preset of `{CONFIG}` with each mechanism's default options, {steps} steps, one seed: enough to see "
        "that it learns, not to tell which is better. Bits per byte of held-out text; a unigram model, which gives "
        f"every token its frequency in the training text, has {floor:.3f}.",
        table(["mechanism", "untrained", "trained", "below unigram"], rows),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Train, print the table, write it where asked.

    Returns:
        The exit status: 1 where a mechanism does not beat the unigram model.
    """
    parser = Parser(
        prog="python -m benchmarks.learn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mechanisms", nargs="+", default=attention.names(), choices=attention.names())
    parser.add_argument("--steps", type=int, default=300, help="of 16 x 128 tokens (default: 300)")
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    learned = [learn(mechanism, options.steps) for mechanism in options.mechanisms]
    floor = unigram(prepare(configured(options.mechanisms[0], options.steps).data))
    text = page(learned, floor, options.steps)
    print(text)
    raw = {
        "machine": facts(),
        "steps": options.steps,
        "unigram": floor,
        "runs": [asdict(x) for x in learned],
    }
    publish(options.write, "learn", text, raw)
    return int(any(x.after >= floor for x in learned))


if __name__ == "__main__":
    guarded(main)
