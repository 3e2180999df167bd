"""Weights that a run begins with where they are another run's: to train on other text, or under another attention.

What both models have is taken. The learned parameters of a layer's mechanism belong to that mechanism: where a layer
has another one, the old ones are dropped and the new ones keep their initial values. All else must be the same in name
and shape, and so must the tokenizer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from data import Tokenizer
from models import GPT, ModelError
from models.block import Mixer
from storage import Run, load_run
from storage.run import read_run
from training.config import Config


@dataclass(frozen=True)
class Initial:
    """What a run takes of another one.

    Attributes:
        run: the other one.
        taken: its tensors that are used, by name.
        dropped, new: learned parameters that only the other has, and those that it does not have.
    """

    run: Run
    taken: dict[str, Tensor]
    dropped: list[str]
    new: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """The entry in a run's record; its checkpoint is the sha256 of the weights."""
        run = self.run
        return {
            "run": str(run.path.resolve()),
            "step": run.step,
            "checkpoint": run.checkpoint,
            "dropped": self.dropped,
            "new": self.new,
        }

    def describe(self) -> list[str]:
        """What happens to the weights, in lines for the one who asked for it."""
        run = self.run
        found = [
            f"begins with {len(self.taken)} tensors of {run.path}, step {run.step}, {run.checkpoint[:12]}..."
        ]
        for names, what in (
            (self.dropped, "dropped, parameters of another mechanism"),
            (self.new, "at their initial values"),
        ):
            if names:
                found.append(f"{what}: {', '.join(names)}")
        return found


def find(config: Config, tokenizer: Tokenizer) -> Initial:
    """The weights that `train.init_from` names, checked against the run's model.

    Raises:
        ModelError: no such run, another tokenizer, or tensors that differ in name or shape.
    """
    source = f"train.init_from={config.train.init_from}"
    try:
        run = load_run(str(config.train.init_from))
    except InputError as error:
        raise ModelError(f"{source}: {error}") from error
    if run.tokenizer.fingerprint != tokenizer.fingerprint:
        raise ModelError(
            f"{source} has another tokenizer; give this run the same: data.tokenizer.path={run.path}/tokenizer.model"
        )
    with torch.device("meta"):
        network = GPT(config.model)
    theirs, ours = run.model.state_dict(), network.state_dict()
    before, now = _mechanisms(run.model), _mechanisms(network)
    taken = {name: tensor for name, tensor in theirs.items() if before.get(name) == now.get(name)}
    dropped = sorted(theirs.keys() - taken.keys())
    new = sorted(name for name in now if now[name] != before.get(name))
    wrong = {
        "missing there": sorted(ours.keys() - taken.keys() - set(new)),
        "unknown here": sorted(taken.keys() - ours.keys()),
        "of another shape": sorted(
            name for name in taken.keys() & ours.keys() if taken[name].shape != ours[name].shape
        ),
    }
    found = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in wrong.items() if names]
    if found:
        raise ModelError(f"{source} does not fit this run's model: tensors {'; '.join(found)}")
    return Initial(run, taken, dropped, new)


def begin(network: GPT, config: Config, tokenizer: Tokenizer) -> list[str]:
    """Put the weights of `train.init_from` into a network that has its own initial ones; says what it did in lines.

    Raises:
        ModelError: as `find`, or the other run has other weights now than when this run was made.
    """
    found = find(config, tokenizer)
    recorded = read_run(config.path)[1].get("init_from", {})
    if recorded.get("checkpoint") != found.run.checkpoint:
        raise ModelError(
            f"train.init_from={config.train.init_from} has other weights than when run {config.path} was made, which "
            "has no checkpoint yet: delete it and start again"
        )
    network.load_state_dict(found.taken, strict=False)
    return found.describe()


def _mechanisms(model: GPT) -> dict[str, str]:
    """The mechanism of each learned parameter of a mechanism, by the parameter's name."""
    mixers = {path: module for path, module in model.named_modules() if isinstance(module, Mixer)}
    return {
        f"{path}.learned.{name}": mixer.mechanism.name
        for path, mixer in mixers.items()
        for name in mixer.learned
    }
