"""SimRF: softmax attention through positive random features, in linear time.

    w_ij = phi(q_i) . phi(k_j) / sum_{l <= i} phi(q_i) . phi(k_l),     phi(x) = m^{-1/2} exp(W x - |x|^2 / 2)

with x = q / d^{1/4} or k / d^{1/4}: the mean of phi(q) . phi(k) over W is exp(q . k / sqrt(d)). Rows of W are coupled
in blocks of d: W = D S R, with a random rotation R, norms D of Gaussian vectors (chi with d degrees of freedom), and S

    simplex      the corners of a simplex, every two rows at the cosine -1 / (d - 1)
    orthogonal   the identity
    iid          no coupling: W is Gaussian

Paper: Reid, Choromanski, Likhosherstov, Weller, "Simplex Random Features", arXiv 2301.13856 (ICML 2023): of all
couplings that do not look at the norms, the simplex has the least mean square error. Positive and orthogonal features:
Choromanski et al., "Rethinking Attention with Performers", arXiv 2009.14794.

Published code: Public ports disagree on D: some draw it from a chi-squared law with one degree of freedom, which makes
rows far too short; the norms here are those of Gaussian vectors.

Here: Causal, in chunks: phi(k) v^T of finished chunks is summed into a state of m x (dv + 1) numbers per head, pairs
within a chunk are weighed one by one. Exponents are taken relative to the query's largest, and to the largest of the
keys so far, which never looks ahead; both cancel. W is drawn once from `seed` for all heads, is an option and not a
weight: a checkpoint's config holds it.

Beware: The variance of a weight grows like exp(|q + k|^2): train with model.qk_norm=true, which bounds |q| and |k|.
Features are never sharp: look at the entropy before trusting a comparison.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.mechanism import PARTS, Bounds
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.chunked import Chunked, Recurrence, State, later

COUPLINGS = ("simplex", "orthogonal", "iid")
SMALLEST_MASS = 1e-19
"""Smallest row sum, as a share of the largest features of its query and keys: less is a row of zeros."""


@register
@dataclass(frozen=True)
class SimRF(Chunked):
    """phi(q) . phi(k) over its row sum, phi positive random features.

    Args:
        coupling: "simplex", "orthogonal" or "iid".
        features: m, the number of random features; one to four head dimensions are usual.
        chunk: length of a chunk; changes the speed, not the result.
        seed: of the features.
    """

    name: ClassVar[str] = "simrf"
    formula: ClassVar[str] = "φ(q)·φ(k) / Σ φ(q)·φ(k),  φ(x) = exp(W x − |x|²/2),  W random"
    paper: ClassVar[str] = "Reid et al. 2023, arXiv 2301.13856"
    bounds: ClassVar[Bounds] = PARTS
    divisible: ClassVar[bool] = True
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"coupling": "orthogonal", "features": 24, "chunk": 16},
        {"coupling": "iid", "features": 24, "chunk": 16},
    )

    coupling: str = "simplex"
    features: int = 128
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.coupling not in COUPLINGS:
            raise AttentionError(f"unknown coupling {self.coupling!r}{nearest(self.coupling, COUPLINGS)}")
        if self.features < 1:
            raise AttentionError(f"simrf needs at least 1 feature, got {self.features}")
        self._check_state(features=self.features)
        self._check_chunk()

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """The root of the scale into either side: W meets vectors whose dot product is the score."""
        scale = query.shape[-1] ** -0.5 if call.scale is None else call.scale
        if not scale > 0:
            raise AttentionError(f"simrf needs a scale above 0, got {scale}")
        wide = torch.promote_types(query.dtype, torch.float32)
        return Scores(query.to(wide) * scale**0.5, key.to(wide) * scale**0.5)

    def recurrence(self, scores: Scores) -> Recurrence:
        """With W in the dtype of the computation."""
        drawn = directions(self.coupling, self.features, scores.query.shape[-1], self.seed)
        return _Features(drawn.to(scores.query))


@dataclass(frozen=True)
class _Features(Recurrence):
    """State: the sum of e^{-p} phi(k) v^T over earlier keys, and p, the largest exponent among them."""

    directions: Tensor

    def exponents(self, x: Tensor) -> Tensor:
        """W x - |x|^2 / 2, [..., m]."""
        return x @ self.directions.mT - 0.5 * x.square().sum(-1, keepdim=True)

    def query_features(self, query: Tensor) -> Tensor:
        """phi(q), relative to its largest."""
        exponent = self.exponents(query)
        return (exponent - exponent.detach().amax(-1, keepdim=True)).exp()

    def normalise(self, mixed: Tensor, mass: Tensor) -> Tensor:
        return mixed / mass.where(mass > SMALLEST_MASS, 1)

    def prepare(self, key: Tensor) -> State:
        """phi(k) relative to the largest so far in the chunk, and the exponents of those, [chunks, H, C, 1]."""
        exponent = self.exponents(key)
        largest = exponent.detach().amax(-1, keepdim=True).cummax(-2).values
        return (exponent - largest).exp(), largest

    def begin(self, key: State, value: Tensor, chunks: int) -> State:
        features, largest = key
        total = value.new_zeros(*value.shape[:2], features.shape[-1], value.shape[-1])
        return total, torch.full_like(largest[:, :, :1], -torch.inf)

    def summarise(self, key: State, value: Tensor) -> State:
        features, largest = key
        last = largest[:, :, -1:]
        return features.mT @ ((largest - last).exp() * value), last

    def update(self, state: State, summary: State, index: int) -> State:
        (total, pivot), (added, last) = state, summary
        larger = torch.maximum(pivot, last)
        return total * (pivot - larger).exp() + added * (last - larger).exp(), larger

    def mix(self, query: Tensor, key: State, value: Tensor, state: State) -> Tensor:
        features, largest = key
        total, before = state
        queries, keys = query.shape[-2], largest.shape[-2]
        pivot = torch.maximum(largest[..., keys - queries :, :], before)
        reads = self.query_features(query)
        hidden = later(queries, keys, largest.device)
        relative = (largest.mT - pivot).masked_fill(hidden, -torch.inf)
        weights = reads @ features.mT * relative.exp_()
        near = weights.masked_fill(hidden, 0) @ value  # for later features that are not finite
        return near + (before - pivot).exp() * (reads @ total)

    def read_state(self, query: Tensor, state: State) -> Tensor:
        total, _ = state
        return self.query_features(query) @ total

    def whole(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        exponent = self.exponents(key)
        features = (exponent - exponent.detach().amax((-2, -1), keepdim=True)).exp()
        return self.query_features(query) @ (features.mT @ value)

    def matrix(self, query: Tensor, key: Tensor, position: Tensor, causal: bool) -> Tensor:
        exponent = self.exponents(key)
        largest = exponent.detach().amax(-1, keepdim=True).cummax(-2).values
        product = self.query_features(query) @ (exponent - largest).exp().mT
        if not causal:
            return product * (largest - largest[..., -1:, :]).exp().mT
        hidden = torch.arange(key.shape[-2], device=key.device) > position[:, None]
        relative = largest.mT - largest[..., position, :]
        return product * relative.masked_fill(hidden, -torch.inf).exp()


@lru_cache(maxsize=64)
def directions(coupling: str, features: int, head_dim: int, seed: int) -> Tensor:
    """W, float64 [m, D], in blocks of D coupled rows; the last block may be cut short.

    Raises:
        AttentionError: a simplex of one dimension.
    """
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if coupling == "iid":
        return gaussian(features, head_dim)
    blocks = []
    for _ in range(-(-features // head_dim)):
        orthogonal, triangular = torch.linalg.qr(gaussian(head_dim, head_dim))
        rotation = orthogonal * triangular.diagonal().sign()
        rows = simplex(head_dim) @ rotation if coupling == "simplex" else rotation
        blocks.append(gaussian(head_dim, head_dim).norm(dim=-1, keepdim=True) * rows)
    return torch.cat(blocks)[:features]


def simplex(size: int) -> Tensor:
    """Unit rows, float64 [size, size], in the first size - 1 dimensions; every two at the cosine -1 / (size - 1).

    S_i = sqrt(d / (d - 1)) e_i - (sqrt(d) + 1) / (d - 1)^{3/2} (1, ..., 1, 0),   S_d = (d - 1)^{-1/2} (1, ..., 1, 0)

    Raises:
        AttentionError: fewer than two dimensions.
    """
    if size < 2:
        raise AttentionError(
            f"a simplex needs a head dimension of at least 2, got {size}; use coupling='iid'"
        )
    rest = size - 1
    rows = torch.zeros(size, size, dtype=torch.float64)
    rows[:rest, :rest] = math.sqrt(size / rest) * torch.eye(rest, dtype=torch.float64)
    rows[:rest, :rest] -= (math.sqrt(size) + 1) / rest**1.5
    rows[rest, :rest] = rest**-0.5
    return rows
