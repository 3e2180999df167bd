"""Transformer language models whose attention is chosen by name, layer by layer.

`GPT(ModelConfig(preset="nano", attention="softmax*1,softpick*3"))` builds one,
`storage.load_run("runs/NAME").model` is a trained one.
"""

from models.cache import KVCache
from models.config import Architecture, LayerPlan, ModelConfig, preset, presets, resolve
from models.errors import ModelError
from models.gpt import GPT
from models.sampling import generate, left_pad, stream
from models.trace import AttentionCall, trace

__all__ = [
    "GPT",
    "Architecture",
    "AttentionCall",
    "KVCache",
    "LayerPlan",
    "ModelConfig",
    "ModelError",
    "generate",
    "left_pad",
    "preset",
    "presets",
    "resolve",
    "stream",
    "trace",
]
