"""C++ kernels: forward, backward and decode for every form, compiled at first use.

`engine.cpp` holds matrix products, blocks and threads, `rows.h` the row functions of each form; a mechanism's own
functions are printed from its PyTorch methods (`printer.py`) and compiled apart, in about a second.
"""

import warnings
from functools import cache

import torch
from torch import Tensor

from attention.core import l2norm
from attention.core.form import rowwise
from attention.core.formula import formula_of, untraceable
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.core.scores import Noise
from attention.kernels.cpu.build import BuildError
from attention.kernels.cpu.ops import load_mechanism, unsupported
from attention.kernels.kernel import Kernel

DTYPES = (torch.float32, torch.bfloat16)


def attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv]."""
    return _forward(inputs, with_mass=False)[0]


def attend_with_mass(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Outputs and log masses [B, T, H] of a Ratio."""
    return _forward(inputs, with_mass=True)


def _forward(inputs: AttentionInputs, with_mass: bool) -> tuple[Tensor, Tensor]:
    scores = inputs.scores
    differentiable = (scores.query, scores.key, inputs.value, scores.query_bias, scores.key_bias)
    # Gradients through a row's statistics live on differences that rounding would drown.
    found = rowwise(inputs.mechanism)
    assert found is not None
    mechanism, form = found
    trains = form.has_statistics
    trains &= torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in differentiable)
    keeps_support = trains and form.vanishes
    out, log_mass, *_ = torch.ops.attention_zoo_cpu.forward(
        *inputs.operands,
        *_noise(scores.noise),
        _key(mechanism),
        trains,
        keeps_support,
        with_mass,
    )
    return out, log_mass


def refuses(inputs: AttentionInputs) -> str | None:
    """Other devices and dtypes, functions that cannot be traced, machines that cannot compile."""
    device, dtype = inputs.value.device.type, inputs.value.dtype
    if device != "cpu":
        return f"the tensors are on {device}"
    if dtype not in DTYPES:
        return f"it computes in float32 and bfloat16, not in {dtype}".replace("torch.", "")
    return untraceable(inputs.mechanism) or _refuses(inputs.mechanism, dtype)


def _noise(noise: Noise | None) -> tuple[Tensor | None, float]:
    return (None, 0.0) if noise is None else (noise.source, noise.amplitude)


@l2norm.offer
def normed(vectors: Tensor, factor: Tensor) -> Tensor | None:
    """`attention.core.l2norm` by the engine, where that can be had."""
    if vectors.device.type != "cpu" or vectors.dtype not in DTYPES or not available():
        return None
    return torch.ops.attention_zoo_cpu.unit(vectors, factor)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the engine's operators can be had here."""
    return _missing() is None


@torch.compiler.assume_constant_result
def _key(mechanism: Mechanism) -> str:
    return formula_of(mechanism).key


@torch.compiler.assume_constant_result
def _refuses(mechanism: Mechanism, dtype: torch.dtype) -> str | None:
    return _missing() or _missing_functions(mechanism) or unsupported(dtype)


@cache
def _missing() -> str | None:
    """Why the engine cannot be had; said once as a warning, since what serves instead is slower."""
    try:
        unsupported(torch.float32)
    except BuildError as error:
        warnings.warn(f"the fused CPU kernels are off, kernel 'tiled' serves: {error}", stacklevel=2)
        return str(error)
    return None


@cache
def _missing_functions(mechanism: Mechanism) -> str | None:
    """Why a mechanism's functions cannot be had, where the engine can."""
    try:
        load_mechanism(formula_of(mechanism))
    except BuildError as error:
        name = mechanism.name
        warnings.warn(f"the fused CPU kernel of {name} is off, 'tiled' serves: {error}", stacklevel=2)
        return str(error)
    return None


KERNEL = Kernel(
    "cpu",
    attend,
    refuses,
    "C++, fused forward and backward, float32 and bfloat16",
    run_with_mass=attend_with_mass,
)
