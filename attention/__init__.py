"""Interchangeable attention mechanisms for transformers.

from attention import attend, get
out = attend(query, key, value, "softpick")
out = attend(query, key, value, get("lssar", power=3), window=256)
"""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for a command: say in one line what is not installed
    import common.command  # noqa: F401

from attention.capabilities import capabilities
from attention.chunked import Chunked, Recurrence
from attention.entropies import entropy
from attention.errors import AttentionError, nearest
from attention.functional import RowStats, attend, row_stats, weights
from attention.kernels.memory import Memory
from attention.mechanism import (
    INFERENCE,
    Adjusted,
    Call,
    Composite,
    Mechanism,
    Moment,
    Pointwise,
    Ratio,
    Scores,
    Threshold,
    TwoStage,
)
from attention.registry import discover, get, names, register

discover()

__all__ = [
    "INFERENCE",
    "Adjusted",
    "AttentionError",
    "Call",
    "Chunked",
    "Composite",
    "Mechanism",
    "Memory",
    "Moment",
    "Pointwise",
    "Ratio",
    "Recurrence",
    "RowStats",
    "Scores",
    "Threshold",
    "TwoStage",
    "attend",
    "capabilities",
    "entropy",
    "get",
    "names",
    "nearest",
    "register",
    "row_stats",
    "weights",
]
