"""What faults befall: a tiny training run, and how to tell that a run ended as if nothing had happened."""

import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from storage import checkpoint_path, checkpoints, log
from tests.reliability._nursery import Nursery, Outcome

STEPS, EVERY = 10, 3
"""Steps of a run and between its checkpoints."""
SAID = "is not the log that step"
"""What a run says that is resumed with a damaged log."""
TIMINGS = ("seconds", "tokens_per_second", "matmul_utilisation", "mfu")


class World:
    """A folder with a corpus, a config, and runs in it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.nursery = nursery
        words = ["the", "king", "queen", "sees", "hears", "a", "fox", "lark", "below", "above"]
        chance = random.Random(0)
        corpus = folder / "words.jsonl"
        corpus.write_text(
            "".join(json.dumps({"text": " ".join(chance.choices(words, k=60))}) + "\n" for _ in range(60))
        )
        values = {
            "seed": 3,
            "out": str(self.runs),
            "model": {
                "n_layer": 2,
                "n_head": 2,
                "d_model": 16,
                "d_ff": 32,
                "max_length": 32,
                "kernel": "tiled",
            },
            "data": {
                "corpus": "jsonl",
                "path": str(corpus),
                "tokenizer": {"kind": "char", "vocab_size": 400},
            },
            "train": {
                "steps": STEPS,
                "batch_size": 4,
                "micro_batch_size": 1,
                "length": 16,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "precision": "fp32",
                "validate_every": 5,
                "validation_sequences": 4,
                "checkpoint_every": EVERY,
                "keep_checkpoints": 2,
                "log_every": 1,
                "tracker": "none",
            },
        }
        self.config = folder / "run.yaml"
        self.config.write_text(yaml.safe_dump(values))

    def train(self, name: str, *options: str, **how: Any) -> Outcome:
        """A training run of that name, to its end."""
        return self.nursery(*self.command(name, *options), **how)

    def command(self, name: str, *options: str) -> list[str]:
        """What starts it."""
        return ["train.py", str(self.config), f"name={name}", *options]

    def resume(self, name: str, whole: str, *options: str, **how: Any) -> str:
        """Continue a run; what is wrong with how it ends, in comparison with another, or nothing."""
        outcome = self.train(name, "--resume", *options, **how)
        if any(outcome.codes):
            return f"--resume ends with {outcome.codes}: {last_line(outcome.complained)}"
        difference = self.difference(name, whole)
        return "" if difference == "the log differs" and SAID in outcome.said else difference

    def difference(self, name: str, whole: str) -> str:
        """The first thing in which a run is not what another is, or nothing."""
        run, other = self.runs / name, self.runs / whole
        if checkpoints(run)[-1:] != [STEPS]:
            return f"its checkpoints are {checkpoints(run)}"
        ends = [checkpoint_path(path, STEPS) for path in (run, other)]
        weights = [load_file(end / "model.safetensors") for end in ends]
        if any(not torch.equal(weights[0][key], value) for key, value in weights[1].items()):
            return "the weights differ"
        moments = [torch.load(end / "optimizer.bin", weights_only=True)["state"] for end in ends]
        for index, state in moments[1].items():
            if any(not torch.equal(moments[0][index][key], value) for key, value in state.items()):
                return "the moments of the optimizer differ"
        if orphans := [path.name for path in [*run.rglob(".*"), *self.runs.glob(f".{name}.*")]]:
            return f"left behind: {', '.join(orphans)}"
        return "" if _log(run) == _log(other) else "the log differs"

    def copy(self, whole: str, name: str, newest: int) -> Path:
        """A copy of a run as it was when its newest checkpoint was that of a step."""
        run = self.runs / name
        shutil.copytree(self.runs / whole, run)
        for step in checkpoints(run):
            if step > newest:
                shutil.rmtree(checkpoint_path(run, step))
        log.truncate(run, newest)
        config = run / "config.yaml"
        config.write_text(config.read_text().replace(f"name: {whole}", f"name: {name}"))
        return run

    def remove(self, name: str) -> None:
        """Forget a run."""
        shutil.rmtree(self.runs / name, ignore_errors=True)


@contextmanager
def world() -> Iterator[World]:
    """A fresh world, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, Nursery(Path(folder)) as nursery:
        yield World(Path(folder), nursery)


def one_line(complaint: str) -> str:
    """What is wrong with the way an error was reported, or nothing."""
    errors = re.findall(r"^error.*$", complaint, re.MULTILINE)
    if "Traceback" in complaint:
        return f"a traceback: {last_line(complaint)}"
    if len(errors) != 1:
        return f"{len(errors)} lines of error: {last_line(complaint)}"
    return f"unexpected: {errors[0]}" if "unexpected" in errors[0].partition(":")[2][:12] else ""


def last_line(text: str) -> str:
    """What a process said of its end."""
    lines = text.strip().splitlines() or ["nothing was said"]
    return next((line for line in lines if line.startswith("error")), lines[-1])[:300]


def _log(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in log.read(run)]
