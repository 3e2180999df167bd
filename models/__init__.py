"""Transformer language models whose attention is chosen by name, layer by layer.

`GPT(ModelConfig(preset="nano", attention="softmax*1,softpick*3"))` builds one, `load_run("runs/NAME").model` is a
trained one.

The names are loaded when they are first used, so that `python -m models.generate` can say what is not installed.
`load_run` is handed on from `storage`, which stands above.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.block import AttentionCall
    from models.cache import KVCache
    from models.config import ModelConfig, presets
    from models.errors import ModelError
    from models.gpt import GPT
    from models.plan import LayerPlan, Plan, preset, resolve
    from models.sampling import generate, left_pad, stream
    from models.tracing import trace

_MODULES = {
    "models.block": ("AttentionCall",),
    "models.cache": ("KVCache",),
    "models.config": ("ModelConfig", "presets"),
    "models.errors": ("ModelError",),
    "models.gpt": ("GPT",),
    "models.plan": ("LayerPlan", "Plan", "preset", "resolve"),
    "models.sampling": ("generate", "left_pad", "stream"),
    "models.tracing": ("trace",),
    "storage.run": ("load_run",),
}

__all__ = [
    "GPT",
    "AttentionCall",
    "KVCache",
    "LayerPlan",
    "ModelConfig",
    "ModelError",
    "Plan",
    "generate",
    "left_pad",
    "preset",
    "presets",
    "resolve",
    "stream",
    "trace",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
