"""Pointwise: w = weight(s), dS = weight'(s) dP. It knows nothing of a row."""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl  # noqa: F401, Triton's interpreter looks for it

from attention.kernels.triton.form import Form, RowFunctions


@triton.jit
def terms(score, pivot, row, count, functions):
    """The weight, which nothing divides."""
    weight = functions.weight(score)
    return weight, weight


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dS = weight'(s) dP."""
    weight = functions.weight(score)
    return weight, functions.weight_derivative(score, weight) * grad_weight


FORM = Form(RowFunctions(terms, gradients))
