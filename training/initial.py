"""Weights that a run begins with where others trained them: for other text, or under another attention.

What both models have is taken. The learned parameters of a layer's mechanism belong to that mechanism: where a layer
has another one, the old ones are dropped and the new ones keep their initial values. All else must be the same in name
and shape, and so must the tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from data import Tokenizer
from models import GPT, ModelError
from models.block import Mixer
from models.config import ModelConfig, from_dict
from models.errors import listed
from models.plan import Plan
from storage.run import read_run
from storage.source import Source, open_source
from training.config import Config

FREE = ("preset", "attention", "attention_options", "window", "kernel", "max_length", "init_std")
"""Choices of a model that may differ from those of the weights it begins with."""


@dataclass(frozen=True)
class Initial:
    """What a run takes of a trained model.

    Attributes:
        source: the model.
        taken: its tensors that are used, by name.
        dropped, new: learned parameters that only the source has, and those that it does not have.
    """

    source: Source
    taken: dict[str, Tensor]
    dropped: list[str]
    new: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """The entry in a run's record; its checkpoint is the sha256 of the weights."""
        source = self.source
        return {
            "run": str(source.path.resolve()),
            "step": source.step,
            "checkpoint": source.checkpoint,
            "dropped": self.dropped,
            "new": self.new,
        }

    def describe(self) -> list[str]:
        """What happens to the weights, in lines for the one who asked for it."""
        found = [f"begins with {len(self.taken)} tensors of {self.source.describe()}"]
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
        ModelError: no such model, another tokenizer, or tensors that differ in name or shape.
    """
    asked = f"train.init_from={config.train.init_from}"
    try:
        source = open_source(str(config.train.init_from))
        source.check_tokenizer(tokenizer)
    except InputError as error:
        raise ModelError(f"{asked}: {error}") from error
    return compare(source, config.model, asked)


def compare(source: Source, model: ModelConfig, asked: str) -> Initial:
    """What a model takes of a source.

    Args:
        source: the trained weights.
        model: what they shall be put into.
        asked: what a message begins with.

    Raises:
        ModelError: tensors differ in name or shape.
    """
    with torch.device("meta"):
        network, theirs = GPT(model), GPT(from_dict({**source.model, "kernel": "auto"}))
    ours = network.state_dict()
    before, now = _mechanisms(theirs), _mechanisms(network)
    taken = {name: tensor for name, tensor in source.state.items() if before.get(name) == now.get(name)}
    dropped = sorted(source.state.keys() - taken.keys())
    new = sorted(name for name in now if now[name] != before.get(name))
    wanted = {name: tensor.shape for name, tensor in ours.items() if name not in new}
    if found := _others(taken, wanted):
        kept = ", ".join(_choices(theirs.plan, network.plan))
        raise ModelError(
            f"{asked} does not fit this run's model: tensors {found}" + (f"; it has {kept}" if kept else "")
        )
    return Initial(source, taken, dropped, new)


def _others(taken: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> str:
    """Say which tensors are missing, unknown or of another shape; nothing where none is."""
    wrong = {
        "missing there": wanted.keys() - taken.keys(),
        "unknown here": taken.keys() - wanted.keys(),
        "of another shape": {
            name for name in taken.keys() & wanted.keys() if taken[name].shape != wanted[name]
        },
    }
    return listed(wrong)


def _choices(theirs: Plan, ours: Plan) -> list[str]:
    """What another model is made of where this one is not, as keys of a config."""
    pairs = (
        (field.name, getattr(theirs, field.name), getattr(ours, field.name)) for field in fields(ModelConfig)
    )
    return [
        f"model.{name}={'null' if there is None else str(there).lower() if isinstance(there, bool) else there}"
        for name, there, here in pairs
        if name not in FREE and there != here
    ]


def begin(network: GPT, config: Config, tokenizer: Tokenizer) -> list[str]:
    """Put the weights of `train.init_from` into a network that has its own initial ones; says what it did in lines.

    Raises:
        ModelError: as `find`, or the source has other weights now than when this run was made.
    """
    found = find(config, tokenizer)
    recorded = read_run(config.path)[1].get("init_from", {})
    if recorded.get("checkpoint") != found.source.checkpoint:
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
