"""Interchangeable attention mechanisms for transformers.

from attention import attend, get
out = attend(query, key, value, "softpick")
out = attend(query, key, value, get("lssar", power=3), window=256)
"""

from importlib import import_module
from types import ModuleType

from attention import requirements  # noqa: F401  (first: all else needs torch)
from attention.capabilities import capabilities
from attention.core.alibi import alibi
from attention.core.call import INFERENCE, Call, CallSpec, Phase
from attention.core.errors import AttentionError, nearest
from attention.core.mechanism import Mechanism
from attention.core.registry import discover, get, names, register
from attention.core.scores import Scores
from attention.entropies import entropy
from attention.forms.chunked import RecurrentState
from attention.functional import attend, weights
from attention.module import Attention, set_progress
from attention.statistics import RowStats, row_stats

discover()


def __getattr__(name: str) -> ModuleType:
    """`attention.transformers` without an import of its own: that package is optional, and heavy."""
    if name == "transformers":
        return import_module("attention.transformers")
    raise AttributeError(f"module 'attention' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "INFERENCE",
    "Attention",
    "AttentionError",
    "Call",
    "CallSpec",
    "Mechanism",
    "Phase",
    "RecurrentState",
    "RowStats",
    "Scores",
    "__version__",
    "alibi",
    "attend",
    "capabilities",
    "entropy",
    "get",
    "names",
    "nearest",
    "register",
    "row_stats",
    "set_progress",
    "weights",
]
