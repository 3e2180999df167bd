"""C++ kernels: forward, backward and decode for every form, compiled at first use.

`engine.cpp` holds matrix products, blocks and threads, `forms/` the row functions of each form; a mechanism's own
functions are printed from its PyTorch methods (`printer.py`) and compiled apart, in about a second.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attention.core import l2norm
from attention.core.form import rowwise
from attention.core.formula import formula_of, untraceable
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.core.scores import Noise
from attention.forms.composite import Mixture
from attention.kernels.cpu import ops
from attention.kernels.cpu.build import HERE, BuildError
from attention.kernels.kernel import Kernel, widened

READ = (torch.float32, torch.bfloat16)
"""Types that the engine reads; bfloat16 it multiplies where the processor does."""

DTYPES = (*READ, torch.float16)
"""Half types that it does not multiply are computed in float32."""


class Cpu(Kernel):
    """The compiled engine, with one library per mechanism."""

    name = "cpu"
    summary = "C++, fused forward and backward, float32 and half types"
    rank = 30
    gives_mass = True
    gives_row_stats = True

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Other devices and dtypes, functions that cannot be traced, machines that cannot compile."""
        device, dtype = inputs.value.device.type, inputs.value.dtype
        if device != "cpu":
            return f"the tensors are on {device}"
        if dtype not in DTYPES:
            return f"it takes float32 and half types, not {dtype}".replace("torch.", "")
        return _refuses(inputs.mechanism)

    def build(self, inputs: AttentionInputs) -> str | None:
        """Compile the engine and the mechanism's functions, where no library of theirs is kept; load them."""
        return _unready(inputs.mechanism)

    def code(self, mechanism: Mechanism) -> str:
        """The libraries, whose names are digests of all that goes into them."""
        return ", ".join(path.name for path in ops.libraries(formula_of(mechanism)))

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs and log masses."""
        scores, dtype = inputs.scores, inputs.value.dtype
        if not _multiplies(dtype):
            wide = self.run(widened(inputs), with_mass=with_mass)
            return Mixture(wide.out.to(dtype), wide.log_mass)
        differentiable = (scores.query, scores.key, inputs.value, scores.query_bias, scores.key_bias)
        # Gradients through a row's statistics live on differences that rounding would drown.
        found = rowwise(inputs.mechanism)
        assert found is not None
        mechanism, form = found
        trains = form.has_statistics
        trains &= torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in differentiable)
        keeps_support = trains and form.vanishes
        with _unrecorded():
            out, log_mass, *_ = torch.ops.attention_zoo_cpu.forward(
                *inputs.operands,
                *_noise(scores.noise),
                _key(mechanism),
                trains,
                keeps_support,
                with_mass,
            )
        return Mixture(out, log_mass if with_mass else None)

    def row_stats(self, inputs: AttentionInputs, *, small: float, floor: float) -> tuple[Tensor, Tensor]:
        """Statistics of rows and keys, of tensors in float32."""
        found = rowwise(inputs.mechanism)
        assert found is not None
        noise, key = _noise(inputs.scores.noise), _key(found[0])
        with _unrecorded():
            rows, keys = torch.ops.attention_zoo_cpu.row_stats(*inputs.operands, *noise, key, small, floor)
        return rows, keys


KERNEL = Cpu()


def _unrecorded() -> AbstractContextManager[Any]:
    """Past autograd where no gradient is wanted: its part of an operator is Python's, and longer than a short call."""
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return nullcontext() if recorded else torch._C._AutoDispatchBelowAutograd()


@l2norm.offer
def normed(vectors: Tensor, factor: Tensor) -> Tensor | None:
    """`attention.core.l2norm` by the engine, where that can be had."""
    if vectors.device.type != "cpu" or vectors.dtype not in READ or not available():
        return None
    with _unrecorded():
        return torch.ops.attention_zoo_cpu.unit(vectors, factor)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the engine's operators can be had here; builds them."""
    return _unready_engine() is None


def _noise(noise: Noise | None) -> tuple[Tensor | None, float]:
    return (None, 0.0) if noise is None else (noise.source, noise.amplitude)


@torch.compiler.assume_constant_result
def _key(mechanism: Mechanism) -> str:
    return formula_of(mechanism).key


@torch.compiler.assume_constant_result
def _refuses(mechanism: Mechanism) -> str | None:
    return untraceable(mechanism) or _without_form(mechanism) or _unavailable(mechanism)


@cache
def _without_form(mechanism: Mechanism) -> str | None:
    header = HERE / "forms" / f"{formula_of(mechanism).form}.h"
    return None if header.exists() else f"it has no row functions for form {mechanism.form.__name__}"


@cache
def _unavailable(mechanism: Mechanism) -> str | None:
    """Say why neither a library nor a compiler is there, None if one is."""
    try:
        ops.look_for(formula_of(mechanism))
    except BuildError as error:
        _warn(str(error))
        return str(error)
    return None


@torch.compiler.assume_constant_result
def _unready(mechanism: Mechanism) -> str | None:
    return _unready_engine() or _unready_functions(mechanism) or ops.unsupported(torch.float32)


@torch.compiler.assume_constant_result
def _multiplies(dtype: torch.dtype) -> bool:
    return ops.unsupported(dtype) is None


@cache
def _unready_engine() -> str | None:
    """Say why the engine cannot be had, None if it can."""
    try:
        ops.unsupported(torch.float32)
    except BuildError as error:
        _warn(str(error))
        return str(error)
    return None


@cache
def _unready_functions(mechanism: Mechanism) -> str | None:
    """Say why a mechanism's functions cannot be had although the engine can, None if they can."""
    try:
        ops.load_mechanism(formula_of(mechanism))
    except BuildError as error:
        name = mechanism.name
        warnings.warn(f"the fused CPU kernel of {name} is off, 'tiled' serves: {error}", stacklevel=2)
        return str(error)
    return None


@cache
def _warn(reason: str) -> None:
    """Say it once, since what serves instead is slower."""
    warnings.warn(f"the fused CPU kernels are off, kernel 'tiled' serves: {reason}", stacklevel=2)
