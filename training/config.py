"""The config of a run: typed dataclasses, filled from YAML files that extend one another and from dotted overrides.

    config = load("configs/micro-softpick.yaml", ["model.n_layer=4", "train.steps=200"])

A key that no dataclass has, a value of the wrong type and a combination that cannot be trained are refused with one
line that says where it was written and what would be right.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.configs import chain, did_you_mean, misread, one_line
from common.describe import described
from common.errors import InputError
from common.hashing import json_hash
from common.ranges import FLOAT32, SEED, ranged, violation
from common.shapes import shown
from data import DataConfig
from data.choice import consequences, located, whole
from data.options import read_option
from models import ModelConfig, ModelError, recompute
from models.patterns import parse
from models.plan import Plan, resolve
from storage.machine import multiplies_bfloat16
from storage.run import CONFIG as SAVED
from storage.source import model_section
from training import losses, optimizers, schedules, tracking

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class TrainConfig(losses.Options, schedules.Options, optimizers.Options, recompute.Options, tracking.Options):
    """How a model is trained; more keys live with what they configure.

    Attributes:
        steps: optimiser steps of the whole run; the schedule spans them. A resumed run may be given others where that
            leaves the steps it has done as they were, which it does with a constant learning rate.
        init_from: directory of a run whose newest weights this one begins with, or of a Hugging Face model of Llama's
            shape; null: random ones. Without a preset, what is not said of the model is as it is there.
        batch_size: sequences per optimiser step, over all processes and micro-batches.
        micro_batch_size: sequences per process in one forward pass; None: the process's whole share.
        length: tokens per sequence.
        document_end: after a document's last token, learn that it ends there, so that text from the model ends, too;
            null: true for a new run, and what an earlier one began with. Losses on held-out text count text only.
        clip: largest norm of the whole gradient; None: no clipping.
        orthograd: take from each linear layer's gradient the part along its weights, before clipping.
        ema: decay per step of a moving average of the weights, kept in every checkpoint; null: none is kept.
        precision: "fp32", "bf16" or "fp16"; "auto": bf16 where the device multiplies it natively, else fp32.
        float32_matmul: how float32 matrices are multiplied: "highest", "high" (TF32 on GPU) or "medium".
        compile: run the model through torch.compile; null: where a trial before a run of at least half an hour shows
            that it pays; an earlier run goes on as it began.
        validate_every: steps between validations; one is made before the first step and one after the last.
        validation_sequences: held-out sequences per validation, evenly spaced; None: all of them.
        checkpoint_every: steps between checkpoints; one is made after the last step.
        checkpoint_async: write checkpoints while the training goes on, from a copy in the CPU's memory.
        keep_checkpoints: how many of the newest stay on disk.
        log_every: steps between lines of metrics.jsonl.
        processes: the number of processes this run must have; None: any.
        profile: steps to trace with torch's profiler, after the first five of a sitting, into runs/NAME/profile.
    """

    steps: int = ranged(1000, 1, 10**9)
    init_from: str | None = None
    batch_size: int = ranged(32, 1, 2**24)
    micro_batch_size: int | None = ranged(None, 1, 2**24)
    length: int = ranged(256, 1, 2**31)
    document_end: bool | None = None
    clip: float | None = ranged(1.0, 0.0, FLOAT32, above=True)
    orthograd: bool = False
    ema: float | None = ranged(None, 0.0, 1 - 2**-24)
    precision: Precision = "auto"
    float32_matmul: Literal["highest", "high", "medium"] = "highest"
    compile: bool | None = None
    validate_every: int = ranged(250, 1, 10**9)
    validation_sequences: int | None = ranged(256, 1, 10**9)
    checkpoint_every: int = ranged(500, 1, 10**9)
    checkpoint_async: bool = False
    keep_checkpoints: int = ranged(2, 1, 10**9)
    log_every: int = ranged(10, 1, 10**9)
    processes: int | None = ranged(None, 1, 2**20)
    profile: int = ranged(0, 0, 1000)


@dataclass
class Config:
    """Everything that defines a run.

    Attributes:
        name: the run's folder inside `out`; None: the stem of the config file, of several with hyphens between.
        out: where runs are kept.
        seed: of the initial weights and of the data order.
    """

    name: str | None = None
    out: str = "runs"
    seed: int = ranged(1, 0, SEED)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.out) / str(self.name)


LONGEST_NAME, LONGEST_PATH = 200, 3800
"""Bytes of a run's name and of its path; what is written there has longer names, and 255 and 4096 is the end."""

FREE_ON_RESUME = {
    "name",
    "out",
    "train.activation_checkpointing",
    "train.micro_batch_size",
    "train.validate_every",
    "train.checkpoint_every",
    "train.checkpoint_async",
    "train.keep_checkpoints",
    "train.log_every",
    "train.profile",
    "train.processes",
    *(f"train.{field.name}" for field in fields(tracking.Options)),
}
"""Keys a resumed run may change: they say where and how often to write, or how to fit a step into memory."""

PLACES = {"data.path", "data.tokenizer.path"}
"""Keys that say where files lie; they may have moved, if what is in them is the same."""

INITIAL = "train.init_from"
"""Another run's folder, as a whole path since it is saved."""


BEFORE = {"train.document_end": False, "train.compile": False}
"""What runs did that were saved before a key existed, where its default is something else."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, the files it extends and what is laid over it, checked.

    Args:
        path: the file.
        overrides: `key.subkey=value`, or paths of further configs, which are laid over the first in their order, and
            under all of the former. A run that no file names is called after all of them.

    Raises:
        ModelError, DataError, AttentionError: anything wrong, as one line.
    """
    paths = [Path(path), *(Path(text) for text in overrides if names_config(text))]
    files = [file for over in paths for file in chain(over)]
    options = [_override(text) for text in overrides if not names_config(text)]
    layers = [*([file] for file in files), options]
    loaded = _filled(OmegaConf.structured(Config), layers, path)
    loaded = replace(loaded, name=loaded.name or "-".join(over.stem for over in paths))
    if loaded.train.init_from is not None and loaded.model.preset is None:
        # What nobody says of the model is as in the model that it begins with.
        start = OmegaConf.merge(OmegaConf.structured(Config), {"model": _begun(loaded, layers)})
        said = [[(source, _said(values)) for source, values in layer] for layer in layers]
        loaded = replace(_filled(start, said, path), name=loaded.name)
    train = replace(loaded.train, init_from=whole(loaded.train.init_from))
    found = replace(loaded, data=located(loaded.data), train=train)
    check(found)
    return found


OPEN = frozenset(Plan.__annotations__)
"""Keys of a model whose null leaves the choice to its preset, or to the model that a run begins with."""

Layer = Sequence[tuple[str, dict[str, Any]]]
"""What one file says, or all overrides together, each with where it was written."""


def _filled(config: Any, layers: Sequence[Layer], path: str | Path) -> Config:
    """A config with layers over it, the first first."""
    for layer in layers:
        for source, values in layer:
            _check_keys(config, values, source)
            if problem := misread(values, Config):
                raise ModelError(f"{source}: {problem}")
        for source, values in [_consequences(config, layer), *layer]:
            try:
                config = OmegaConf.merge(config, values)
            except OmegaConfBaseException as error:
                raise ModelError(f"{source}: {one_line(error)}") from error
    try:
        loaded = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ModelError(f"{path}: {one_line(error)}") from error
    assert isinstance(loaded, Config)
    return loaded


def _begun(config: Config, layers: Sequence[Layer]) -> dict[str, Any]:
    """The model section that a run with `train.init_from` builds on: its own if it exists, else that of the source.

    Options of mechanisms that it does not use are left out.
    """
    try:
        place = config.path if (config.path / SAVED).is_file() else str(config.train.init_from)
        found = model_section(Path(place).expanduser())
    except InputError as error:
        raise ModelError(f"train.init_from={config.train.init_from}: {error}") from error
    said = {key for layer in layers for _, values in layer for key in values.get("model") or {}}
    used = parse(config.model.attention if "attention" in said else str(found.get("attention")))
    options = {name: entry for name, entry in found.get("attention_options", {}).items() if name in used}
    return {**found, "preset": None, "kernel": "auto", "attention_options": options}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """What a layer says, but for the nulls that leave a choice of the model open."""
    model = (values.get("model") or {}).items()
    return {**values, "model": {key: value for key, value in model if value is not None or key not in OPEN}}


def check(config: Config) -> None:
    """Refuse what cannot be trained, before anything is read or written.

    Raises:
        ModelError, AttentionError: the first mistake found.
    """
    train = config.train
    if not re.fullmatch(r"[\w][\w.-]*", str(config.name)) or len(str(config.name).encode()) > LONGEST_NAME:
        raise ModelError(
            f"name {shown(config.name)} must be a plain folder name: letters, digits, '.', '-' and '_', at most "
            f"{LONGEST_NAME} bytes"
        )
    if not config.out.isprintable() or any(len(part.encode()) > 255 for part in Path(config.out).parts):
        raise ModelError(
            f"out {shown(config.out)} must be a path without control characters or endless names"
        )
    if len(str(config.path.absolute()).encode()) > LONGEST_PATH:
        raise ModelError(
            f"out {shown(config.out)} must be a path of at most {LONGEST_PATH} bytes with the name"
        )
    if problem := violation(config):
        raise ModelError(problem)
    _require(
        0 <= train.warmup_steps <= train.steps,
        "train.warmup_steps",
        f"in [0, steps={train.steps}]",
        train.warmup_steps,
    )
    model = resolve(replace(config.model, vocab_size=config.model.vocab_size or 1))
    _require(
        train.length <= model.max_length,
        "train.length",
        f"at most model.max_length={model.max_length}",
        train.length,
    )


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What `precision` means on a device: "auto" becomes "bf16" where it is multiplied natively, else "fp32".

    Raises:
        ModelError: fp16 on a CPU, which is hundreds of times slower than float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ModelError("train.precision=fp16 needs a GPU; on a CPU use 'bf16' or 'fp32'")
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bfloat16(device) else "fp32"


def settled(config: Config, precision: Precision, document_end: bool, pieces: int) -> Config:
    """The config with what depends on machine, data and earlier sittings; its model is a `Plan`. Nothing changes
    later, but `train.compile`, which is tried with it.

    Args:
        config: as it was written.
        precision: what `resolve_precision` makes of its own.
        document_end: whether the ends of documents are learned.
        pieces: of the tokenizer; the model's vocabulary where it is left open.

    Raises:
        ModelError: the model has fewer pieces.
    """
    size = config.model.vocab_size or pieces
    if size < pieces:
        raise ModelError(f"model.vocab_size={size} is below the tokenizer's {pieces}")
    train = replace(config.train, precision=precision, document_end=document_end)
    return replace(config, model=resolve(replace(config.model, vocab_size=size)), train=train)


def as_dict(config: Config) -> dict[str, Any]:
    """The config as nested plain values."""
    return asdict(config)


def differences(saved: Mapping[str, Any], config: Config, *, same_data: bool = False) -> list[str]:
    """The keys whose values differ, as "key: saved -> now", without those in `FREE_ON_RESUME`.

    A key that did not exist when the config was saved had what is its default now, or what `BEFORE` says. With
    `same_data`, nor those in `PLACES`; relative ones, which were saved before, lead from the folder that this process
    is in.
    """
    now, default = dict(_flat(as_dict(config))), dict(_flat(as_dict(Config())))
    before = {key: default[key] for key in now.keys() & default.keys()} | BEFORE | dict(_flat(saved))
    before |= {key: now[key] if same_data else whole(before[key]) for key in PLACES}
    before[INITIAL] = whole(before[INITIAL])
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in FREE_ON_RESUME and before.get(key) != now.get(key)
    ]


def fingerprint(config: Config) -> str:
    """sha256 of all keys that a resumed run must share."""
    kept = {key: value for key, value in _flat(as_dict(config)) if key not in FREE_ON_RESUME | PLACES}
    return json_hash(kept)


def describe_keys() -> str:
    """Every key with its type, default, meaning and what it may be: what `train.py --keys` prints."""
    return described(Config)


def _consequences(config: DictConfig, layer: Layer) -> tuple[str, dict[str, Any]]:
    """What the data sections of a file, or of all overrides together, change beyond what they say."""
    section = {key: value for _, values in layer for key, value in (values.get("data") or {}).items()}
    inherited = OmegaConf.to_container(config.data)
    assert isinstance(inherited, dict)
    return "data", {"data": consequences(inherited, section)}  # type: ignore[arg-type]


def names_config(text: str) -> bool:
    """Whether an override is the path of a config, and no `key=value`."""
    return "=" not in text and text.endswith((".yaml", ".yml"))


def _override(text: str) -> tuple[str, dict[str, Any]]:
    return f"override {text!r}", read_option(text, Config)[1]


def _check_keys(schema: DictConfig, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in schema:
            raise ModelError(f"{source}: unknown key {name!r}{_neighbours(name)}")
        if is_dataclass(OmegaConf.get_type(schema, key)):
            if not isinstance(value, Mapping):
                raise ModelError(
                    f"{source}: {name!r} is a section; set one of its keys, like {_example(name)}"
                )
            _check_keys(schema[key], value, source, f"{name}.")


def _neighbours(name: str) -> str:
    """The known keys whose last part is like that of `name`, those of the same section first."""
    section, _, last = name.rpartition(".")
    known = [key for key, _, _ in _fields(Config)]
    known += list({key.rpartition(".")[0]: None for key in known if "." in key})
    leaves = [key.rpartition(".")[2] for key in known]
    alike = difflib.get_close_matches(last, leaves, n=3) or [
        leaf for leaf in leaves if _initials(leaf) == last
    ]
    near = sorted(
        (key for key in known if key.rpartition(".")[2] in alike),
        key=lambda key: _distance(key, section, last),
    )
    return did_you_mean(near[:3]) or "; train.py --keys lists all keys"


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def _distance(key: str, section: str, last: str) -> tuple[bool, float]:
    home, _, leaf = key.rpartition(".")
    return home != section, -difflib.SequenceMatcher(None, leaf, last).ratio()


def _example(section: str) -> str:
    return next(key for key, _, _ in _fields(Config) if key.startswith(f"{section}.")) + "=..."


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, type and default of every leaf of a config dataclass."""
    instance = cls()
    own = cls.__annotations__
    for item in sorted(fields(cls), key=lambda item: item.name not in own):
        value = getattr(instance, item.name)
        if is_dataclass(value):
            yield from _fields(type(value), f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item.type, value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _require(holds: bool, key: str, what: str, value: Any) -> None:
    if not holds:
        raise ModelError(f"{key} must be {what}, got {value}")
