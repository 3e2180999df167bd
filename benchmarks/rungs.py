"""What a ladder of recipes is made of, and what a run of one rung comes to.

`paper` is the config of a size as it is; every other rung lays files of configs/recipes/ over it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

from common.configs import parents
from common.hashing import json_hash
from common.reading import read_json
from eval.analyses import activations
from eval.subject import open_subject
from models import ModelError, resolve
from storage import log
from training import Config, load, train
from training.config import as_dict, differences

RECIPES = Path("configs/recipes")
MODERN = RECIPES / "modern.yaml"
INGREDIENTS = RECIPES / "ingredients"

SIZES = {"pico": "configs/demo/pico.yaml", "nano": "configs/demo/base.yaml", "micro": "configs/base.yaml"}
"""The config of each size, which trains plain softmax attention by `paper`."""

RESULT = "rung.json"
SWEEP_SEED = 0
"""Learning rates are chosen by runs of this seed, and rungs compared by those of 1, 2, .."""

WINDOWS = 16
"""Held-out sequences on which kurtosis is measured."""


@dataclass(frozen=True)
class Rung:
    """A recipe: what is laid over the config of a size.

    Attributes:
        name: in tables, and with hyphens of its runs.
        files: YAML files, laid over in their order.
        options: `key=value`, laid over the files.
    """

    name: str
    files: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()

    def config(self, size: str, seed: int) -> Config:
        """The config of a run, which is kept in runs/ladder/SIZE, in a folder of its own for each config."""
        config = load(SIZES[size], [*map(str, self.files), *self.options, f"seed={seed}"])
        # One validation, one checkpoint, nothing to watch: the ladder reads what a run came to.
        steps = config.train.steps
        quiet = replace(
            config.train, validate_every=steps, checkpoint_every=steps, keep_checkpoints=1, tracker="none"
        )
        name = re.sub(r"[^a-z0-9.]+", "-", self.name).strip("-")
        folder = f"{name}-{seed}-{_identity(config)[:8]}"
        return replace(config, name=folder, out=f"runs/ladder/{size}", train=quiet)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        loss: cross-entropy of held-out text, nats per token.
        bits_per_byte: the same per byte.
        kurtosis: of the residual stream after all blocks together (`python -m eval activations`); None: undefined.
        parameters: trained scalars.
        config: identity of the run's config.
    """

    loss: float
    bits_per_byte: float
    kurtosis: float | None
    parameters: int
    config: str


class _Outcome(TypedDict):
    loss: float
    bits_per_byte: float
    kurtosis: float | None
    parameters: int
    config: str


class _Results(TypedDict):
    rungs: dict[str, dict[str, _Outcome]]
    sweep: dict[str, dict[str, _Outcome]]


PAPER = Rung("paper")
LONGER = "paper, twice the steps"


def ladder(size: str, *, more: bool = False) -> list[Rung]:
    """`paper`, `paper` and one ingredient at a time, `modern`, and `paper` for twice the steps.

    Args:
        size: one of `SIZES`.
        more: `modern` without each of its ingredients, too, and both recipes with half the batch for twice the steps.
    """
    paper = load(SIZES[size])
    named = {path.stem: path for path in sorted(INGREDIENTS.glob("*.yaml"))}
    # SwiGLU has three matrices; two that are half as wide again have as many weights.
    width = resolve(replace(paper.model, vocab_size=1)).d_ff * 3 // 2
    found = [
        PAPER,
        Rung("modern", (MODERN,)),
        *(Rung(f"+ {name}", (path,)) for name, path in named.items()),
        Rung("+ relu_squared, wide", (named["relu_squared"],), (f"model.d_ff={width}",)),
        Rung(LONGER, (), (f"train.steps={2 * paper.train.steps}",)),
    ]
    if more:
        train = paper.train
        halved = (
            f"train.batch_size={train.batch_size // 2}",
            f"train.steps={2 * train.steps}",
            f"train.warmup_steps={2 * train.warmup_steps}",
        )
        found += [
            Rung("paper, half the batch", (), halved),
            Rung("modern, half the batch", (MODERN,), halved),
        ]
        parts = parents(MODERN)
        for left_out in parts:
            kept = tuple(part for part in parts if part != left_out)
            found.append(Rung(f"modern - {left_out.stem}", kept))
    return found


def sweep(size: str) -> dict[str, list[tuple[float, Rung]]]:
    """Rungs that differ in a learning rate alone: of AdamW under `paper`, and of Muon, AdamW's being as it is."""
    peak = load(SIZES[size]).train.learning_rate
    muon = INGREDIENTS / "muon.yaml"
    factors = (0.5, 1.0, 2.0, 4.0)
    return {
        "AdamW: train.learning_rate": [
            (peak * k, Rung(f"adamw {peak * k:g}", (), (f"train.learning_rate={peak * k:g}",)))
            for k in factors
        ],
        "Muon: train.muon_rate": [
            (k, Rung(f"muon {k:g}", (muon,), (f"train.muon_rate={k:g}",))) for k in factors
        ],
    }


def read(rung: Rung, size: str, seed: int, recorded: Mapping[str, Outcome]) -> Outcome | None:
    """What a finished run came to, or one that was recorded elsewhere; None where there is none of this config."""
    config = rung.config(size, seed)
    file = config.path / RESULT
    return Outcome(**read_json(file, _Outcome)) if file.exists() else recorded.get(_identity(config))


def climb(rung: Rung, size: str, seed: int) -> Outcome:
    """Train a run, or go on with one that was stopped.

    Raises:
        ModelError: the run was stopped, or its folder holds a run of another config.
    """
    config = rung.config(size, seed)
    found = _measured(train(config, resume=True), config)
    (config.path / RESULT).write_text(json.dumps(asdict(found)) + "\n")
    return found


def recorded(file: Path) -> dict[str, Outcome]:
    """What runs came to that `python -m benchmarks.ladder` wrote down, by the identity of their configs."""
    if not file.exists():
        return {}
    sections = read_json(file, _Results)
    found = [
        Outcome(**entry)
        for section in (sections["rungs"], sections["sweep"])
        for of_seed in section.values()
        for entry in of_seed.values()
    ]
    return {entry.config: entry for entry in found}


def _identity(config: Config) -> str:
    """A hash of what a config has other than by default, without what does not change a run's numbers."""
    return json_hash(differences(as_dict(Config()), config))


def _measured(run: Path, config: Config) -> Outcome:
    last = [record for record in log.read(run) if "validation_loss" in record][-1]
    if last["step"] != config.train.steps:
        raise ModelError(f"{run} was stopped; the same command goes on with it")
    subject = open_subject(run)
    measured = activations.run(subject, activations.Settings(sequences=WINDOWS)).results
    return Outcome(
        loss=last["validation_loss"],
        bits_per_byte=last["bits_per_byte"],
        kurtosis=measured.kurtosis.pooled,
        parameters=sum(parameter.numel() for parameter in subject.network.parameters()),
        config=_identity(config),
    )
