"""Transformer language models whose attention is chosen by name, layer by layer.

`GPT(ModelConfig(preset="nano", attention="softmax*1,softpick*3"))` builds one,
`load_run("runs/NAME").model` is a trained one.
"""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for a command: say in one line what is not installed
    import command  # noqa: F401

from models.cache import KVCache
from models.checkpoint import (
    checkpoint_path,
    checkpoints,
    partial_path,
    prune,
    publish,
    verify,
    write_checksums,
)
from models.config import Architecture, LayerPlan, ModelConfig, preset, presets, resolve
from models.errors import ModelError
from models.gpt import GPT
from models.packing import QuantizedMatrix
from models.quantized import save_quantized
from models.run import Run, create_run, load_run, load_weights
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
    "QuantizedMatrix",
    "Run",
    "checkpoint_path",
    "checkpoints",
    "create_run",
    "generate",
    "left_pad",
    "load_run",
    "load_weights",
    "partial_path",
    "preset",
    "presets",
    "prune",
    "publish",
    "resolve",
    "save_quantized",
    "stream",
    "trace",
    "verify",
    "write_checksums",
]
