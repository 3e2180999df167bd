"""Normalisation of vectors: one kind per file, found by listing this folder; `model.norm` names the one of a model.

A file defines a `Norm` under its own name. Every norm of a model is of one kind: those of the residual stream, of
queries and keys, of heads.
"""

from typing import TYPE_CHECKING

from common.listing import classes
from models.norms.base import Norm

if TYPE_CHECKING:
    from models.plan import Plan

NORMS: dict[str, type[Norm]] = classes(__name__, Norm)
"""All kinds by name."""


def norm(plan: "Plan", size: int) -> Norm:
    """The norm of vectors of `size` channels in a model."""
    return NORMS[plan.norm](size, plan.norm_eps)
