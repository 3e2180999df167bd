"""Storage: run directories with their checkpoints and logs, weights on integer grids, the machine.

`load_run("runs/NAME")` opens a run; its `model` and `tokenizer` are the trained ones.
"""

from storage.checkpoint import (
    checkpoint_path,
    checkpoints,
    partial_path,
    prune,
    publish,
    verify,
    write_checksums,
)
from storage.codes import QuantizedMatrix
from storage.quantized import save_quantized
from storage.run import Run, create_run, load_run, load_weights

__all__ = [
    "QuantizedMatrix",
    "Run",
    "checkpoint_path",
    "checkpoints",
    "create_run",
    "load_run",
    "load_weights",
    "partial_path",
    "prune",
    "publish",
    "save_quantized",
    "verify",
    "write_checksums",
]
