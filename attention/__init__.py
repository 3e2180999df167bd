"""Interchangeable attention mechanisms for transformers.

from attention import attend, get
out = attend(query, key, value, "softpick")
out = attend(query, key, value, get("lssar", power=3), window=256)
"""

from attention.capabilities import capabilities
from attention.entropies import entropy
from attention.errors import AttentionError, nearest
from attention.functional import RowStats, attend, row_stats, weights
from attention.mechanism import INFERENCE, Call, Mechanism, Moment, Pointwise, Ratio, Scores, TwoStage
from attention.registry import discover, get, names, register

discover()

__all__ = [
    "INFERENCE",
    "AttentionError",
    "Call",
    "Mechanism",
    "Moment",
    "Pointwise",
    "Ratio",
    "RowStats",
    "Scores",
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
