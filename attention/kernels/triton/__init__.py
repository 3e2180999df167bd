"""The GPU kernels: one Triton template per pass, for every mechanism whose functions can be traced.

A form's own part is one file in `forms/`. Neither these nor the templates are imported where Triton is missing.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from attention.core.formula import formula_of, untraceable
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.forms.composite import Mixture
from attention.kernels.kernel import Kernel
from attention.kernels.proof import sources
from attention.kernels.triton import forms
from attention.kernels.triton.tiles import family

HERE = Path(__file__).parent
WIDEST_HEAD = 256
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attend_with_statistics(inputs: AttentionInputs, with_mass: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, log masses, and what the backward pass knows of the rows, float32 [any, B, T, H].

    Which numbers these are stands at the top of the form's file.
    """
    noise = inputs.scores.noise
    drawn = (None, 0.0) if noise is None else (noise.source, noise.amplitude)
    printed = _printed(inputs.mechanism)
    return torch.ops.attention_zoo.triton_forward(*inputs.operands, *drawn, printed, with_mass)


@torch.compiler.assume_constant_result
def _refuses_form(mechanism: Mechanism) -> str | None:
    served = forms.has(formula_of(mechanism).form)
    return None if served else f"it has no row functions for form {mechanism.form.__name__}"


def _refuses_tensors(dtype: torch.dtype, width: int) -> str | None:
    if dtype not in DTYPES:
        return f"the tensors are {str(dtype).removeprefix('torch.')}; it takes float32, bfloat16 and float16"
    if width > WIDEST_HEAD:
        return f"head_dim {width} is above {WIDEST_HEAD}"
    return None


@torch.compiler.assume_constant_result
def _refuses_machine(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted():
        return None
    if device.type != "cuda":
        return f"the tensors are on {device.type}; it needs a GPU"
    from attention.kernels.triton.launch import architecture_of

    architecture, _ = architecture_of(device)
    if family(architecture) is None:
        return f"it has no tiles for {architecture}; it runs on NVIDIA GPUs from sm_80 on and on gfx942"
    return None


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1: kernels run on the CPU, slowly, to be checked."""
    import triton

    return triton.knobs.runtime.interpret


@torch.compiler.assume_constant_result
def _printed(mechanism: Mechanism) -> str:
    """The mechanism's printed module; the operators exist from then on."""
    from attention.kernels.triton import operators, printer  # noqa: F401

    return printer.module_name(formula_of(mechanism))


class Triton(Kernel):
    """The templates, which Triton compiles at the first run."""

    name = "triton"
    summary = "fused, on NVIDIA GPUs from Ampere on and on AMD CDNA 3"
    rank = 20
    gives_mass = True

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Other devices, float64, heads wider than 256, functions that cannot be traced."""
        query = inputs.scores.query
        return (
            _refuses_machine(query.device)
            or _refuses_tensors(query.dtype, max(query.shape[3], inputs.value.shape[3]))
            or untraceable(inputs.mechanism)
            or _refuses_form(inputs.mechanism)
        )

    def code(self, mechanism: Mechanism) -> str | None:
        """The templates and the printed functions; the interpreter, which compiles nothing, has nothing to prove."""
        return None if interpreted() else f"{sources(HERE)}, {_printed(mechanism)}"

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs and log masses."""
        out, log_mass, _ = attend_with_statistics(inputs, with_mass)
        return Mixture(out, log_mass if with_mass else None)


KERNEL = Triton()
