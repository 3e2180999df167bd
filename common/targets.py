"""The target of a token that carries no loss: what packing writes, and every loss leaves out."""

IGNORED = -100
