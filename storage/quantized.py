"""A copy of a run with quantized weights: a run directory like any other, so everything that opens runs opens it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from models.errors import ModelError
from storage.checkpoint import WEIGHTS, checkpoint_path
from storage.codes import QuantizedMatrix, write_state
from storage.derived import derive
from storage.run import Run


def save_quantized(
    run: Run, path: str | Path, matrices: Mapping[str, QuantizedMatrix], how: Mapping[str, Any]
) -> Path:
    """Write a run directory with one checkpoint, whose named weights are packed.

    `load_run(path)` gives the model whose weights are `matrices[name].weight()`, bit for bit.

    Args:
        run: what was quantized.
        path: the new directory, which must not exist.
        matrices: by the name of the parameter, `"layers.0.attention.query.weight"`.
        how: method and settings, for the record.

    Returns:
        The file of the weights.

    Raises:
        ModelError: the directory exists, or a matrix is none of the model's or of another shape.
    """
    state = run.model.state_dict()
    for name, matrix in matrices.items():
        if name not in state or state[name].shape != matrix.codes.shape:
            raise ModelError(f"run {run.path} has no matrix {name} of shape {list(matrix.codes.shape)}")
    path = derive(
        run,
        path,
        partial(write_state, state=state, quantized=matrices),
        quantized={"run": run.name, "step": run.step, "checkpoint": run.checkpoint, **how},
    )
    return checkpoint_path(path, run.step) / WEIGHTS
