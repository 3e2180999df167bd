"""The MLP of a block: one kind per file, found by listing this folder; `model.mlp` names the one of a model."""

from common.listing import classes
from models.mlps.base import MLP

MLPS: dict[str, type[MLP]] = classes(__name__, MLP, without={"base"})
"""All kinds by name."""
