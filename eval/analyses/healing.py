"""What a swap of attention costs and how much training gives back, in runs that begin with trained weights.

    python train.py configs/micro-softpick.yaml configs/recipes/heal.yaml train.init_from=runs/micro-softmax name=healed
    python -m eval healing runs/healed

Three models score the same held-out windows of the run: the source, from which the run took its weights; those weights
under the run's own attention, before its first step; and the run. So

    damage = swapped − source        left = run − source        recovered = (swapped − run) / damage

in nats per token. Where the source was trained on other text, training on this one lowers the loss as well, so `left`
may be negative: compare with a run from the same source whose attention was not swapped. The source is read from where
it lay when the run began (`--source` says where it lies now), and must have the weights that it had.

Results: `Result` below; a run that began with random weights has none.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from eval.analysis import Analysis, Measurement
from eval.display import Number, columns_of
from eval.intervals import contributions
from eval.options import option
from eval.subjects.base import Subject
from eval.subjects.run import RunSubject
from eval.windows import Windows, cut, targets
from models import GPT, ModelError
from models.config import from_dict
from storage.run import read_run
from storage.source import Source, open_source
from training.initial import compare


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    sequences: int = option(64, "windows of the training length")
    source: str | None = option(None, "where the source lies", unset="where it lay when the run began")

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise ModelError("healing needs at least one sequence")


@dataclass(frozen=True)
class Loss:
    """The loss of one of the models.

    Attributes:
        loss: in nats per token.
        by_document: contributions of held-out documents, whose mean it is; None where there are too few.
    """

    loss: float
    by_document: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Began:
    """The three models of a run that began with trained weights.

    Attributes:
        attention: of the source, as its config has it.
        checkpoint: sha256 of its weights.
        steps: of training since.
        source, swapped, run: their losses.
        damage, left: against the source.
        recovered: share of the damage; None where there is none.
    """

    attention: str
    checkpoint: str
    steps: int
    source: Loss
    swapped: Loss
    run: Loss
    damage: float
    left: float
    recovered: float | None


@dataclass(frozen=True)
class Result:
    """The losses, None for a model that began with random weights."""

    began: Began | None = None


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    origin = _origin(subject)
    if origin is None or not isinstance(subject, RunSubject):
        return Measurement(Result())
    source = _source(subject, settings.source or str(origin["run"]), str(origin["checkpoint"]))
    windows = cut(subject, subject.train_length, settings.sequences)
    taken = compare(source, subject.network.plan, f"the source {source.path}").taken
    before = _built(source.model, source.state, subject)
    swapped = _built(asdict(subject.network.plan), taken, subject)
    found = [_loss(network, windows, subject) for network in (before, swapped, subject.network)]
    damage, left = (each.loss - found[0].loss for each in found[1:])
    began = Began(
        attention=str(source.model.get("attention", "softmax")),
        checkpoint=source.checkpoint,
        steps=subject.step or 0,
        source=found[0],
        swapped=found[1],
        run=found[2],
        damage=damage,
        left=left,
        recovered=(damage - left) / damage if damage > 0 else None,
    )
    return Measurement(Result(began), {"windows": windows.protocol})


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    began = result.began
    if began is None:
        return {"began with": "random weights"}
    share = "" if began.recovered is None else f"{began.recovered:.0%}"
    return {
        "began with": began.attention,
        "source": f"{began.source.loss:.4f}",
        "swapped": f"{began.swapped.loss:.4f}",
        "healed": f"{began.run.loss:.4f}",
        "damage": f"{began.damage:+.4f}",
        "left": f"{began.left:+.4f}",
        "recovered": share,
    }


def numbers(result: Result) -> list[Number]:
    """Damage, what is left of it, and the share that was recovered, for the report."""
    began = result.began
    if began is None:
        return []
    return [
        Number(
            title, value, unit, better, parts=_difference(one, began.source) if one else None, meaning=meaning
        )
        for title, value, unit, better, one, meaning in (
            (
                "damage",
                began.damage,
                "nats/token",
                None,
                began.swapped,
                "Loss right after the swap of attention, above that of the source.",
            ),
            (
                "left",
                began.left,
                "nats/token",
                "lower",
                began.run,
                "Loss of the run, above that of the source.",
            ),
            (
                "recovered",
                began.recovered,
                "of the damage",
                "higher",
                None,
                "Share of the damage that training gave back; more than 1 where it went below the source.",
            ),
        )
    ]


def _origin(subject: Subject) -> dict[str, Any] | None:
    """What the record of a run says of the weights that it began with; None where they were random."""
    return read_run(subject.path)[1].get("init_from") if isinstance(subject, RunSubject) else None


def _difference(one: Loss, other: Loss) -> Mapping[str, float] | None:
    if one.by_document is None or other.by_document is None:
        return None
    return {name: value - other.by_document[name] for name, value in one.by_document.items()}


def _source(subject: RunSubject, place: str, checkpoint: str) -> Source:
    """The source of a run, with the weights that it had.

    Raises:
        ModelError: it is gone, or has others now.
    """
    print(f"{subject.path}: began with the weights of {place}, which are read now", file=sys.stderr)
    try:
        source = open_source(place)
    except ModelError as error:
        raise ModelError(f"the source of run {subject.path}: {error}; --source says where it lies") from error
    if source.checkpoint != checkpoint:
        raise ModelError(f"the source of run {subject.path}, {place}, has other weights than when it began")
    return source


def _built(section: Mapping[str, Any], state: Mapping[str, Tensor], subject: RunSubject) -> GPT:
    """A model with these weights, and its own initial ones where there are none."""
    network = GPT(from_dict({**section, "kernel": "auto"}))
    network.load_state_dict(state, strict=False)
    return network.to(device=subject.device, dtype=subject.dtype).eval().requires_grad_(False)


@torch.inference_mode()
def _loss(network: GPT, windows: Windows, subject: RunSubject) -> Loss:
    size = subject.batch(windows.tokens.shape[1])
    sums, counts = [], []
    for tokens in windows.tokens.split(size):
        counted = targets(subject, tokens)
        here = tokens.to(subject.device)
        losses = network(here[:, :-1], targets=here[:, 1:].contiguous()).double().cpu()
        sums += losses.where(counted, 0).sum(1).tolist()
        counts += counted.sum(1).tolist()
    parts = contributions(sums, counts, windows.documents)
    return Loss(sum(sums) / sum(counts), parts or None)


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    applies=lambda subject: _origin(subject) is not None,
    heading="Begun with trained weights",
    order=90,
    columns=lambda runs: columns_of(runs, numbers, "Begun with trained weights"),
)
