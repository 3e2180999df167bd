"""Elementary functions in float32 that the compiler lacks, or has only in a slow or cancelling form.

Only the hardware's 2^x, reciprocal and square root are used; everything else is a short polynomial.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl


@triton.jit
def maximum(a, b):
    """The larger one; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    """The smaller one; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def copysign(magnitude, sign):
    """|magnitude| with the sign bit of `sign`."""
    magnitude, sign = tl.broadcast(magnitude + tl.zeros_like(sign), sign)
    bits = magnitude.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (bits | (sign.to(tl.int32, bitcast=True) & -0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def expm1(x):
    """e^x - 1; its Taylor polynomial where the difference would cancel."""
    taylor = 1 / 120 + x * (1 / 720 + x * (1 / 5040 + x * (1 / 40320)))
    taylor = 1.0 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * taylor)))
    return tl.where(tl.abs(x) < 0.5, x * taylor, tl.exp(x) - 1.0)


@triton.jit
def _atanh2(z):
    """2 atanh(z) = 2 (z + z^3/3 + z^5/5 + ...), accurate for |z| <= 1/3."""
    square = z * z
    series = 1 / 11 + square * (1 / 13 + square * (1 / 15))
    series = 1 / 5 + square * (1 / 7 + square * (1 / 9 + square * series))
    return 2.0 * z * (1.0 + square * (1 / 3 + square * series))


@triton.jit
def softplus(x):
    """ln(1 + e^x) = max(x, 0) + ln(1 + t), t = e^-|x|, and ln(1 + t) = 2 atanh(t / (2 + t))."""
    t = tl.exp(-tl.abs(x))
    return maximum(x, 0.0) + _atanh2(t / (2.0 + t))


@triton.jit
def log(x):
    """ln x: x = 2^e m with m near 1, ln x = e ln 2 + 2 atanh((m - 1) / (m + 1))."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    mantissa = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    result = exponent.to(tl.float32) * 0.6931471805599453 + _atanh2((mantissa - 1.0) / (mantissa + 1.0))
    result = tl.where(x == float("inf"), x, result)
    result = tl.where(x == 0, float("-inf"), result)
    return tl.where(x >= 0, result, float("nan"))


@triton.jit
def log1p(x):
    """ln(1 + x), with what rounding 1 + x lost added back."""
    total = 1.0 + x
    lost = x - (total - 1.0)
    plain = log(total)
    return tl.where(tl.abs(plain) < float("inf"), plain + lost / total, plain)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """-expm1(-2|x|) / (2 + expm1(-2|x|)), with the sign of x."""
    shrunk = expm1(-2.0 * tl.abs(x))
    return copysign(shrunk / (2.0 + shrunk), x)


@triton.jit
def power(x, exponent: tl.constexpr):
    """x^exponent for x >= 0 and a constant exponent that is no whole number."""
    at_zero: tl.constexpr = 0.0 if exponent > 0 else float("inf")
    return tl.where(x == 0, at_zero, tl.exp(exponent * log(x)))
