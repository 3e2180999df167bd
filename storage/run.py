"""Run directories: what training leaves behind, and how the rest of the project opens it.

runs/NAME/
  config.yaml       the resolved config
  run.json          versions, machine, fingerprints, training length, command
  tokenizer.model
  checkpoints/step-00000100/{model.safetensors, checksums.json, ...}
"""

import importlib.metadata
import json
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from omegaconf import OmegaConf

from attention import AttentionError
from common.errors import nearest
from common.reading import escaped, read_json, read_yaml
from data import DataError, Tokenizer
from models.config import from_dict
from models.errors import ModelError
from models.gpt import GPT
from storage.checkpoint import WEIGHTS, checkpoint_path, checkpoints, publish, verify
from storage.codes import read_state
from storage.machine import machine

CONFIG, RECORD, TOKENIZER = "config.yaml", "run.json", "tokenizer.model"


class SavedConfig(TypedDict):
    """Shape of a config.yaml; its `model` is a `ModelConfig`, its `data` a `DataConfig`."""

    name: NotRequired[str]
    seed: NotRequired[int]
    model: dict[str, Any]
    data: NotRequired[dict[str, Any]]
    train: NotRequired[dict[str, Any]]


class Record(TypedDict):
    """Shape of a run.json."""

    train_length: int
    tokenizer: str
    data: NotRequired[str | None]
    command: NotRequired[list[str]]
    versions: NotRequired[dict[str, str]]
    machine: NotRequired[dict[str, Any]]
    quantized: NotRequired[dict[str, Any]]
    averaged: NotRequired[dict[str, Any]]
    init_from: NotRequired[dict[str, Any]]
    longer: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class Run:
    """A trained model with what belongs to it.

    Attributes:
        name: of the run's folder.
        path: of the run's folder.
        step: of the checkpoint.
        model: in eval mode.
        tokenizer: the one it was trained with.
        config: the resolved config of the run.
        train_length: tokens per training sequence.
        checkpoint: sha256 of the weights file.
        data: fingerprint of the corpus, None where none was recorded.
    """

    name: str
    path: Path
    step: int
    model: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]
    train_length: int
    checkpoint: str
    data: str | None = None


def create_run(
    path: str | Path,
    *,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    train_length: int,
    data: str | None,
    quantized: Mapping[str, Any] | None = None,
    averaged: Mapping[str, Any] | None = None,
    init_from: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run directory with its config, record and tokenizer; it appears whole or not at all.

    Args:
        path: the directory, which must not exist.
        config: the resolved config, as plain containers; its `model` section is a full `ModelConfig`.
        tokenizer: saved with the run, its fingerprint recorded.
        train_length: tokens per training sequence.
        data: fingerprint of the corpus.
        quantized: what was quantized and how, where the weights will be (`storage.quantized`).
        averaged: whose average the weights are (`storage.averaged`).
        init_from: whose weights training begins with, where they are another run's (`training.initial`).

    Raises:
        ModelError: the directory exists.
    """
    path = Path(path)
    if path.exists():
        raise ModelError(f"run {path} already exists; choose another name, or resume it")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(partial / TOKENIZER)
    (partial / CONFIG).write_text(as_yaml(config), encoding="utf-8")
    record: dict[str, Any] = {
        "train_length": train_length,
        "tokenizer": tokenizer.fingerprint,
        "data": data,
        "command": sys.argv,
        "versions": _versions(),
        "machine": machine(),
    }
    for name, entry in {"quantized": quantized, "averaged": averaged, "init_from": init_from}.items():
        if entry is not None:
            record[name] = dict(entry)
    (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    publish(partial, path)
    return path


def as_yaml(config: Mapping[str, Any]) -> str:
    """The text of a run's config.yaml, from which `read_run` has the same config again."""
    return OmegaConf.to_yaml(OmegaConf.create(escaped(dict(config))))


def load_run(
    path: str | Path,
    step: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Run:
    """Open a run directory. Its model computes attention with the kernel that suits this machine.

    Args:
        path: runs/NAME.
        step: of the checkpoint; None: the latest.
        device: where the weights shall be.
        dtype: what the weights shall be.

    Raises:
        ModelError: no run or checkpoint there, a damaged checkpoint, a tokenizer that is not the model's,
            weights that do not fit the config.
    """
    path = Path(path)
    config, record = read_run(path)
    tokenizer = own_tokenizer(path, record["tokenizer"])
    step = _choose(path, step)
    checkpoint = checkpoint_path(path, step)
    checksum = verify(checkpoint, [WEIGHTS])[WEIGHTS]
    with torch.device("meta"):
        # How attention is computed is this machine's business; kernels differ in rounding and speed only.
        model = _network(path, config["model"])
    if tokenizer.vocab_size > model.plan.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, its model {model.plan.vocab_size}"
        raise ModelError(f"the tokenizer of run {path} has {sizes}")
    model.pieces = tokenizer.vocab_size
    load_weights(model, checkpoint / WEIGHTS)
    try:
        model = model.to(device=torch.device(device), dtype=dtype).eval()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"cannot put the model on device {device!s}: {str(error).splitlines()[0]}"
        ) from error
    return Run(
        path.resolve().name,
        path,
        step,
        model,
        tokenizer,
        config,
        record["train_length"],
        checksum,
        record.get("data"),
    )


def load_weights(model: GPT, file: str | Path) -> None:
    """Load a safetensors file into a model, on the meta device even; parameters take the file's dtype.

    Packed matrices (`storage.codes`) become float32.

    Raises:
        ModelError: unreadable, or tensors missing, left over or of another shape.
    """
    state = {_unwrapped(name): tensor for name, tensor in read_state(file).items()}
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(
            name for name in wanted.keys() & state.keys() if state[name].shape != wanted[name]
        ),
    }
    found = [f"{len(names)} {what} ({', '.join(names[:3])}...)" for what, names in problems.items() if names]
    if found:
        raise ModelError(f"the weights {file} do not fit the model's config: tensors {'; '.join(found)}")
    model.load_state_dict(state, assign=True)


def read_run(path: Path) -> tuple[dict[str, Any], Record]:
    """The config and the record of a run, their shapes checked; no text of theirs is followed as a reference.

    Raises:
        ModelError: there is no run, or one of the files is damaged or was not written by training.
    """
    if not (path / CONFIG).is_file():
        siblings = [file.parent.name for file in path.parent.glob(f"*/{CONFIG}")]
        raise ModelError(f"no run at {path}: {path / CONFIG} is missing{nearest(path.name, siblings)}")
    config = read_yaml(path / CONFIG, SavedConfig)
    record = read_json(path / RECORD, Record)
    if record["train_length"] < 1:
        raise ModelError(f"{path / RECORD}: train_length must be at least 1, got {record['train_length']}")
    return dict(config), record


def _network(path: Path, section: dict[str, Any]) -> GPT:
    try:
        return GPT(from_dict({**section, "kernel": "auto"}))
    except (AttentionError, ModelError) as error:
        raise ModelError(f"{path / CONFIG}: {error}") from error


def own_tokenizer(path: Path, fingerprint: str) -> Tokenizer:
    """The tokenizer in a run's folder.

    Args:
        path: of the run.
        fingerprint: of the tokenizer that the run was trained with, as its record has it.

    Raises:
        ModelError: unreadable, or another one.
    """
    try:
        tokenizer = Tokenizer.load(path / TOKENIZER)
    except DataError as error:
        raise ModelError(str(error)) from error
    if tokenizer.fingerprint != fingerprint:
        raise ModelError(f"{path / TOKENIZER} is not the tokenizer that run {path} was trained with")
    return tokenizer


def _choose(path: Path, step: int | None) -> int:
    steps = checkpoints(path)
    if not steps:
        raise ModelError(f"run {path} has no checkpoint yet")
    if step is None:
        return steps[-1]
    if step not in steps:
        raise ModelError(
            f"run {path} has no checkpoint of step {step} (there are: {', '.join(map(str, steps))})"
        )
    return step


def _unwrapped(name: str) -> str:
    """The name of a tensor without what DDP, torch.compile and the training objective put into it."""
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix("network.")


def _versions() -> dict[str, str]:
    packages = ("torch", "accelerate", "safetensors", "sentencepiece", "omegaconf")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
