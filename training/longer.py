"""More steps for a run that exists, where the steps it has done would have been the same.

With a constant learning rate 20 steps and then 20 more are a run of 40, bit for bit. A cosine spans all steps, so a run
of 40 would have begun otherwise, and such a run is refused more.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import ModelError, resolve
from storage.run import CONFIG, RECORD, as_yaml
from training.config import Config
from training.schedules import learning_rate


def check_steps(saved: Mapping[str, Any], config: Config, done: int) -> None:
    """Refuse another number of steps where it would have changed the steps that are done.

    Args:
        saved: the run's config as it was.
        config: what it shall be; its `train.steps` may differ.
        done: steps of the checkpoint to go on from.

    Raises:
        ModelError: says why, and what to do instead.
    """
    steps, before = config.train.steps, _steps(saved, config)
    if steps == before or done == 0:
        return
    if steps < done:
        raise ModelError(f"run {config.path} has done {done} steps; train.steps={steps} would take some back")
    layers = resolve(config.model).layers
    follows = sorted({layer.mechanism.name for layer in layers if layer.mechanism.follows_progress})
    earlier = replace(config.train, steps=before)
    if any(learning_rate(step, earlier) != learning_rate(step, config.train) for step in range(done)):
        why = f"its {config.train.schedule} learning rate spans train.steps={before}"
    elif follows:
        why = f"the weights of {', '.join(follows)} follow the share of train.steps={before} that is done"
    else:
        return
    raise ModelError(
        f"run {config.path} cannot go on to train.steps={steps}: {why}, so that the {done} steps done would have been "
        f"others; start a run under another name= with train.init_from={config.path}, which has its own schedule"
    )


def record_steps(saved: Mapping[str, Any], record: Mapping[str, Any], config: Config, done: int) -> None:
    """Write the new number of steps into the run's config, and what was done into its record."""
    steps, before = config.train.steps, _steps(saved, config)
    if steps == before:
        return
    entry = {"step": done, "steps": [before, steps], "command": sys.argv}
    changes: list[dict[str, Any]] = record.get("longer", [])
    # The record first; where a crash came in between, it has the entry already.
    if not changes or changes[-1].get("steps") != entry["steps"]:
        longer = {**record, "longer": [*changes, entry]}
        _replace(config.path / RECORD, json.dumps(longer, indent=2) + "\n")
    _replace(config.path / CONFIG, as_yaml({**saved, "train": {**saved["train"], "steps": steps}}))


def _steps(saved: Mapping[str, Any], config: Config) -> int:
    return saved.get("train", {}).get("steps", config.train.steps)


def _replace(file: Path, text: str) -> None:
    """Write a file such that a crash leaves the old one or the new one."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(partial, file)
