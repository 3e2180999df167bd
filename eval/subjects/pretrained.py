"""Opening a directory that transformers can read, which may come from anybody: nothing of it is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from attention import AttentionError
from attention.transformers import register
from attention.transformers.calls import CHILD
from common.errors import InputError
from common.explain import said
from common.reading import read_json
from common.shapes import shown
from models import ModelError
from models.huggingface import AttentionZooConfig

OWN_TYPE = AttentionZooConfig.model_type
"""What the config of an export calls its model."""

SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 2**16,
    "max_position_embeddings": 2**31,
}
"""Entries that the config of every model must state, and up to which size they are believed."""


def load(path: Path, weights: Path, dtype: torch.dtype, attention: str | None = None) -> tuple[Any, Any]:
    """The model and the tokenizer of a directory.

    Args:
        path: of the directory.
        weights: the first of its files of weights.
        dtype: to compute in.
        attention: what takes the place of the model's own attention, as of `attention.transformers.mechanism_of`. What
            it learns begins at its initial values where the files have nothing of it.

    Raises:
        AttentionError: no such mechanism, or the model cannot attend so.
        ModelError: it cannot be opened, brings code of its own, or its weights are not exactly the model's.
    """
    _check_files(path)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if weights.suffix == ".gguf":
        options["gguf_file"] = weights.name
    register()  # a folder may say that its model attends by a mechanism of this project
    chosen = {} if attention is None else {"attn_implementation": attention}
    part = "config"
    try:
        config = transformers.AutoConfig.from_pretrained(path, **options)
        _check_sizes(path, config.get_text_config())
        part = "weights"
        opened: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **chosen,
            **options,
        )
        network, found = opened
        part = "tokenizer"
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **options)
    except (InputError, AttentionError):
        raise
    # What transformers, tokenizers, safetensors and torch raise over damaged files has no common ancestor.
    except Exception as error:
        reason = f"its {part}: {type(error).__name__}: {said(error)}"
        raise ModelError(f"{path} cannot be opened as a causal language model, {reason}") from error
    if attention is not None:
        found["missing_keys"] = {name for name in found["missing_keys"] if not _learned(name)}
    _check_weights(path, network, found)
    return network, tokenizer


def _learned(name: str) -> bool:
    """Whether a tensor is one that a mechanism learns, in the child that its layer holds for it."""
    return f".{CHILD}.learned." in name


def is_export(path: Path) -> bool:
    """Whether a folder is an export of this project, which opens by the code of this checkout."""
    file = path / "config.json"
    return file.is_file() and read_json(file, dict[str, Any]).get("model_type") == OWN_TYPE


def _check_files(path: Path) -> None:
    """Refuse what asks for code or weights from elsewhere."""
    for name in ("config.json", "tokenizer_config.json"):
        if name == "config.json" and is_export(path):
            continue  # transformers has this checkout's classes for it, and runs no other
        if (path / name).is_file() and "auto_map" in read_json(path / name, dict[str, Any]):
            raise ModelError(
                f"{path / name} asks for code of its own (auto_map), which is never run; where a class of transformers "
                "itself is meant, delete that entry"
            )
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path} is an adapter of another model; merge it into that and save the whole")


def _check_sizes(path: Path, config: Any) -> None:
    for name, most in SIZES.items():
        value = getattr(config, name, None)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ModelError(
                f"the config of {path}: {name} must be an integer from 1 to {most}, got {shown(value)}"
            )


def _check_weights(path: Path, network: nn.Module, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks tensors: transformers fills them with random numbers."""
    problems = {
        "missing": found["missing_keys"],
        "unexpected": found["unexpected_keys"],
        "of another shape": [entry[0] for entry in found["mismatched_keys"]],
    }
    words = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in problems.items()
        if names
    ]
    if words:
        raise ModelError(f"the weights of {path} do not fit its config: tensors {'; '.join(words)}")
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"the weights of {path} are damaged: {name} holds values that are not finite")


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights, in a fixed order."""
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.gguf"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise ModelError(f"{path} has a config.json but no weights (*.safetensors, pytorch_model*.bin or *.gguf)")
