"""Gaussian kernels through landmarks: kappa(x, y) ~ kappa(x, M) (kappa(M, M) + ridge)^-1 kappa(M, y)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, gelu

from attention.core.errors import AttentionError

INVERSES = ("cholesky", "newton")
ITERATIONS = 30
"""Steps of Newton-Raphson. It inverts an eigenvalue to the error (1 - 1.8 (eigenvalue / row sum)^2)^(2^iterations): the
published 20 resolve eigenvalues above 1.6e-3 of the largest row sum only, less than a ridge of 0.01 asks for."""

RESIDUAL = 0.05
"""Largest |I - A Y| in any row that passes as an inverse."""


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / 2), [..., X, Y], of [..., X, D] and [..., Y, D]."""
    return distance(x, y).exp()


def distance(x: Tensor, y: Tensor) -> Tensor:
    """-|x - y|^2 / 2, expanded into one product: [x, -|x|^2/2, 1] . [y, 1, -|y|^2/2].

    What rounds to a number above 0 is 0, so that no kernel exceeds one.
    """
    x_half, y_half = (-0.5 * z.square().sum(-1, keepdim=True) for z in (x, y))
    left = torch.cat([x, x_half, torch.ones_like(x_half)], -1)
    right = torch.cat([y, torch.ones_like(y_half), y_half], -1)
    return (left @ right.mT).clamp(max=0)


def pool(points: Tensor, count: int) -> Tensor:
    """Means of `count` runs of neighbours, [..., count, D]; of every point where there are fewer."""
    length = points.shape[-2]
    if length % count == 0:
        return points.unflatten(-2, (count, -1)).mean(-2)
    flat = points.flatten(0, -3).mT
    return adaptive_avg_pool1d(flat, min(count, length)).mT.unflatten(0, points.shape[:-2])


@torch.no_grad()
def pivots(points: Tensor, count: int) -> Tensor:
    """Indices [..., count] of points that span the others best: the pivots of a Cholesky factorisation of their kernel.

    Greedy: each is the point whose kernel the earlier ones explain least.
    """
    residual = torch.ones_like(points[..., 0])
    factor = points.new_zeros(*points.shape[:-1], count)
    chosen = []
    for step in range(count):
        best = residual.argmax(-1, keepdim=True)
        pivot = points.take_along_dim(best[..., None], -2)
        column = gaussian(points, pivot)[..., 0]
        if step:
            known = factor[..., :step]
            column = column - (known @ known.take_along_dim(best[..., None], -2).mT)[..., 0]
        column = column * residual.take_along_dim(best, -1).clamp(min=1e-12).rsqrt()
        residual = (residual - column.square()).scatter(-1, best, -torch.inf)
        factor[..., step] = column
        chosen.append(best)
    return torch.cat(chosen, -1).sort(-1).values


def solve(gram: Tensor, right: Tensor, ridge: float, inverse: str) -> Tensor:
    """(gram + ridge I)^-1 right, [..., m, N].

    Args:
        gram: symmetric, positive semi-definite [..., m, m].
        right: [..., m, N].
        ridge: above zero.
        inverse: "cholesky" or "newton" (Newton-Raphson, as in SOFT).

    Raises:
        AttentionError: Newton-Raphson has not converged.
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return _Solve.apply(gram + ridge * identity, right, inverse)[0]


class _Solve(torch.autograd.Function):
    """X = A^-1 B, and the factor that it was found by.

    In reverse dB = A^-T dX, dA = -dB X^T; forward dX = A^-1 (dB - dA X). Exact for an exact inverse, whichever way it
    was found, and differentiable again, being solved in the same way.
    """

    @staticmethod
    def forward(gram: Tensor, right: Tensor, inverse: str) -> tuple[Tensor, Tensor]:
        factor = cholesky(gram) if inverse == "cholesky" else newton(gram)
        return _apply(factor, right, inverse), factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: tuple[Tensor, Tensor]) -> None:
        gram, right, ctx.inverse = inputs
        solution, factor = output
        ctx.mark_non_differentiable(factor)
        ctx.save_for_backward(gram, solution, factor)
        ctx.save_for_forward(gram, solution)
        ctx.shapes = gram.shape, right.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gram, solution, factor = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad_right = _Solve.apply(gram.mT, grad, ctx.inverse)[0]
        else:
            grad_right = _apply(factor.mT if ctx.inverse == "newton" else factor, grad, ctx.inverse)
        grad_gram = -(grad_right @ solution.mT)
        shapes = zip((grad_gram, grad_right), ctx.shapes, strict=True)
        return *(x.sum_to_size(shape) for x, shape in shapes), None

    @staticmethod
    def jvp(ctx: Any, gram_tangent: Tensor, right_tangent: Tensor, _: None) -> tuple[Tensor, None]:
        gram, solution = ctx.saved_tensors
        return _Solve.apply(gram, right_tangent - gram_tangent @ solution, ctx.inverse)[0], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, gram: Tensor, right: Tensor, inverse: str) -> Any:
        """Both have leading dimensions anyway."""
        rank = max(x.dim() - (dim is not None) for x, dim in zip((gram, right), in_dims, strict=False))
        gram, right = (
            x if dim is None else x.movedim(dim, 0)[(slice(None), *[None] * (rank - x.dim() + 1))]
            for x, dim in zip((gram, right), in_dims, strict=False)
        )
        return _Solve.apply(gram, right, inverse), (0, None if in_dims[0] is None else 0)


def _apply(factor: Tensor, right: Tensor, inverse: str) -> Tensor:
    return torch.cholesky_solve(right, factor) if inverse == "cholesky" else factor @ right


def cholesky(gram: Tensor) -> Tensor:
    """The lower factor of each matrix; NaN where one holds a number that is not finite, as sums and products go on.

    Raises:
        AttentionError: a matrix of finite numbers is not positive definite in this precision.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed.any():
        return factor
    finite = gram.isfinite().all(-1).all(-1)
    if bool((finite & (failed > 0)).any()):
        raise AttentionError(
            "landmarks so close together make a matrix that is not positive definite: raise the ridge, or take fewer"
        )
    return factor.masked_fill(~finite[..., None, None], torch.nan)


def newton(gram: Tensor) -> Tensor:
    """The inverse by Y <- 2Y - Y A Y from Y = 1.8 A / |A|_1^2 on, a fixed number of times.

    The residual I - A Y is squared by each step. Not differentiated: the gradient of the exact inverse is used.

    Raises:
        AttentionError: some |I - A Y| (largest row sum) is not below RESIDUAL; that gradient would be wrong.
    """
    largest = gram.abs().sum(-1).amax(-1)[..., None, None]
    inverse = 1.8 * gram / largest.square()
    for _ in range(ITERATIONS):
        inverse = 2 * inverse - inverse @ gram @ inverse
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    residual = (identity - gram @ inverse).abs().sum(-1).amax().item() if gram.numel() else 0.0
    if not residual < RESIDUAL:
        raise AttentionError(
            f"Newton-Raphson has not converged in {ITERATIONS} iterations: |I - A Y| is {residual:.2g}, which must "
            f"be below {RESIDUAL}; raise the ridge, or use inverse='cholesky'"
        )
    return inverse


def nystrom(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    landmarks: Tensor,
    *,
    ridge: float = 1e-2,
    inverse: str = "cholesky",
    symmetric: bool = False,
) -> Tensor:
    """SOFT's attention: kappa(Q, M) A^-1 kappa(M, K) V with A = kappa(M, M) + ridge I.

    Args:
        query: [..., T, D]; key: [..., S, D]; value: [..., S, Dv]; landmarks: [..., m, D]; already scaled (by d^-1/4).
        symmetric: SOFT++'s normalisation, D^-1/2 A^-1 D^-1/2 with D the row sums of kappa(M, M).

    Returns:
        [..., T, Dv].
    """
    return gaussian(query, landmarks) @ bridge(
        gaussian(landmarks, key) @ value, landmarks, ridge, inverse, symmetric
    )


def bridge(right: Tensor, landmarks: Tensor, ridge: float, inverse: str, symmetric: bool = False) -> Tensor:
    """A^-1 right, or D^-1/2 A^-1 D^-1/2 right."""
    gram = gaussian(landmarks, landmarks)
    if not symmetric:
        return solve(gram, right, ridge, inverse)
    degree = gram.sum(-1, keepdim=True).rsqrt()
    return degree * solve(gram, degree * right, ridge, inverse)


class ConvolutionalLandmarks(nn.Module):
    """SOFT's landmarks of an image: GELU(LayerNorm(convolution of the queries)), kernel and stride alike.

        landmarks = ConvolutionalLandmarks(head_dim=32, height=28, width=28, ratio=4)
        scaled = query / 32**0.25                                    # [B, H, 784, 32]; SOFT's key is its query
        out = nystrom(scaled, scaled, value, landmarks(scaled))

    Args:
        head_dim: D; one convolution serves all heads.
        height, width: of the image, positions in rows; both must be multiples of `ratio`.
        ratio: pixels that a landmark spans in either direction.

    Raises:
        AttentionError: a shape that does not divide, or queries of another image.
    """

    def __init__(self, head_dim: int, height: int, width: int, ratio: int) -> None:
        super().__init__()
        if ratio < 1 or height % ratio or width % ratio:
            raise AttentionError(f"an image of {height} x {width} cannot be cut into squares of {ratio}")
        self.height, self.width = height, width
        self.convolution = nn.Conv2d(head_dim, head_dim, kernel_size=ratio, stride=ratio, bias=False)
        self.norm = nn.LayerNorm(head_dim)

    def forward(self, query: Tensor) -> Tensor:
        """Scaled queries [B, H, height * width, D] to landmarks [B, H, m, D], m = height * width / ratio^2."""
        batch, n_head, length, _ = query.shape
        if length != self.height * self.width:
            raise AttentionError(
                f"{length} queries are not an image of {self.height} x {self.width} ({self.height * self.width})"
            )
        image = query.flatten(0, 1).mT.unflatten(-1, (self.height, self.width))
        landmarks = self.convolution(image).flatten(-2).mT
        return gelu(self.norm(landmarks)).unflatten(0, (batch, n_head))


def inverse_softplus(value: float) -> float:
    """The x with softplus(x) = value."""
    return math.log(math.expm1(value))
