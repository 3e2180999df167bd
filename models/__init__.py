"""Transformer language models whose attention is chosen by name, layer by layer.

`GPT(ModelConfig(preset="nano", attention="softmax*1,softpick*3"))` builds one,
`storage.load_run("runs/NAME").model` is a trained one.
"""

from models.block import AttentionCall
from models.cache import KVCache
from models.config import ModelConfig, presets
from models.errors import ModelError
from models.gpt import GPT
from models.plan import LayerPlan, Plan, preset, resolve
from models.sampling import generate, left_pad, stream
from models.trace import trace

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
