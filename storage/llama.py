"""Folders of Hugging Face models whose block is this project's: Llama and what is built like it.

Their `config.json` becomes the model section of a config, and their tensors get the names that `models.GPT` has. What
the block cannot express is refused by name; nothing is left out. Weights are safetensors files: no pickle is read, and
no code of a folder is run.
"""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import nearest
from common.reading import read_json
from common.shapes import shown
from models.errors import ModelError

CONFIG = "config.json"

SIZES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "max_position_embeddings": "max_length",
    "rms_norm_eps": "norm_eps",
}
"""Entries of a config.json, and the fields of `ModelConfig` that they are."""

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"qk_norm": True},
}
"""Each `model_type` that is read, and what its block has beyond Llama's."""

OWN = "attention_zoo"
"""The `model_type` of an export of this project, whose config holds the plan itself."""

NAMES = {
    r"model\.embed_tokens\.": "embedding.",
    r"model\.norm\.": "norm.",
    r"lm_head\.": "head.",
    r"model\.layers\.(\d+)\.input_layernorm\.": r"layers.\1.attention_norm.",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.": r"layers.\1.mlp_norm.",
    r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.": r"layers.\1.mlp.\2.",
    r"model\.layers\.(\d+)\.self_attn\.q_proj\.": r"layers.\1.attention.query.",
    r"model\.layers\.(\d+)\.self_attn\.k_proj\.": r"layers.\1.attention.key.",
    r"model\.layers\.(\d+)\.self_attn\.v_proj\.": r"layers.\1.attention.value.",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.": r"layers.\1.attention.output.",
    r"model\.layers\.(\d+)\.self_attn\.q_norm\.": r"layers.\1.attention.query_norm.",
    r"model\.layers\.(\d+)\.self_attn\.k_norm\.": r"layers.\1.attention.key_norm.",
}
"""The beginnings of the names of Llama's tensors, and what they are called here."""


def is_model(path: Path) -> bool:
    """Whether a folder holds a model of Hugging Face, and no run."""
    return (path / CONFIG).is_file() and not (path / "config.yaml").is_file()


def section(path: Path) -> dict[str, Any]:
    """The model section of a config that builds what lies in a folder.

    Raises:
        ModelError: a model of another kind, an option that the block does not have, or an export without its plan.
    """
    config: dict[str, Any] = read_json(path / CONFIG, dict)
    kind = config.get("model_type")
    if kind == OWN:
        plan = config.get("plan")
        if not isinstance(plan, dict) or "attention" not in plan:
            raise ModelError(
                f"{path / CONFIG} has no plan that says how its layers attend; export the run anew, or give the run "
                "itself"
            )
        return dict(plan)
    if kind not in FAMILIES:
        raise ModelError(
            f"{path} is a model of type {kind!r}, not of one that is read{nearest(str(kind), FAMILIES)}"
        )
    for name in ("vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size"):
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise ModelError(
                f"{path / CONFIG}: {name} must be a positive integer, got {shown(config.get(name))}"
            )
    _refuse_options(path, config)
    found = {ours: config[theirs] for theirs, ours in SIZES.items() if config.get(theirs) is not None}
    rope = _rope(config)
    return {
        **found,
        **FAMILIES[kind],
        "attention": "softmax",
        "mlp": "swiglu",
        "rope_theta": float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
        "window": _windows(config),
    }


def _refuse_options(path: Path, config: dict[str, Any]) -> None:
    """Refuse what the block does not have, by the names of the config's entries."""
    rope, heads, width = _rope(config), config["num_attention_heads"], config["hidden_size"]
    kind = rope.get("rope_type", rope.get("type", "default"))
    wrong = [
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("head_dim", config.get("head_dim") or width // heads, width // heads),
        ("rope type", kind or "default", "default"),
        ("partial_rotary_factor", rope.get("partial_rotary_factor") or 1.0, 1.0),
        ("attention_bias", bool(config.get("attention_bias", False)), False),
        ("mlp_bias", bool(config.get("mlp_bias", False)), False),
    ]
    found = [f"{name} {shown(value)} (must be {right!r})" for name, value, right in wrong if value != right]
    if found:
        raise ModelError(f"{path} has what the block here has not: {'; '.join(found)}")


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, dict) else {}


def _windows(config: dict[str, Any]) -> str | None:
    """The pattern of windows by layer, None where all layers see everything."""
    window = config.get("sliding_window")
    if not isinstance(window, int) or not config.get("use_sliding_window", True):
        return None
    kinds = config.get("layer_types")
    if not isinstance(kinds, list):
        # Qwen's first layers see everything, so many of them.
        whole = config.get("max_window_layers", 0) if "use_sliding_window" in config else 0
        kinds = ["full" if layer < whole else "sliding" for layer in range(config["num_hidden_layers"])]
    windows = [str(window) if str(kind).startswith("sliding") else "none" for kind in kinds]
    if set(windows) == {"none"}:
        return None
    return windows[0] if len(set(windows)) == 1 else ",".join(windows)


def weight_files(path: Path) -> list[Path]:
    """The files of a folder's weights, in a fixed order. ModelError: there are none, or none but pickles."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path} has no *.safetensors; other files of weights are not read (save it as safetensors)"
        )
    return files


def state(path: Path, tied: bool) -> dict[str, Tensor]:
    """The tensors of a folder by the names that `models.GPT` has, float32.

    Args:
        path: of the folder.
        tied: whether the embedding serves as the head, whose copy is left out then.

    Raises:
        ModelError: a file that cannot be read, or tensors that the block has no place for.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            found |= load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"cannot read {file}: {' '.join(str(error).split())[:200]}") from error
    renamed = {name: _named(name) for name in found if not name.endswith("rotary_emb.inv_freq")}
    if nowhere := sorted(name for name, ours in renamed.items() if ours is None):
        raise ModelError(
            f"{path} has {len(nowhere)} tensors that the block here has no place for: {', '.join(nowhere[:6])}"
            + (", ..." if len(nowhere) > 6 else "")
        )
    return {
        str(ours): found[name].float()
        for name, ours in renamed.items()
        if not (tied and str(ours).startswith("head."))
    }


def _named(name: str) -> str | None:
    """What a tensor is called here, None where it has no place."""
    if name.startswith("network."):
        return name.removeprefix("network.")
    for pattern, ours in NAMES.items():
        if re.fullmatch(rf"{pattern}weight", name):
            return re.sub(pattern, ours, name)
    return None
