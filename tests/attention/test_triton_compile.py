"""What the Triton kernels compile to: no spills, matrix instructions, shared memory that fits. Nothing is run."""

import importlib.util

import pytest
import torch

import attention

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install triton==3.7.1)", allow_module_level=True)

from benchmarks import gpu_static

SWEEPS_WITHOUT_PRODUCTS = ("merge",)
FORWARD_ONLY = {"sm_80": ("mix",), "gfx942": ("mix", "grad_queries")}


def sweeps(name: str, architecture: str, dtype: torch.dtype, head_dim: int):
    planned = gpu_static.launches(attention.get(name), architecture, dtype, head_dim)
    chosen = FORWARD_ONLY.get(architecture, tuple(planned))
    return [(sweep, launch) for sweep, launch in planned.items() if sweep in chosen]


@pytest.mark.parametrize("name", gpu_static.REPRESENTATIVES)
@pytest.mark.parametrize("architecture", gpu_static.MACHINES)
def test_shipped_tiles_fit_spill_nothing_and_use_the_matrix_units(name, architecture):
    machine = gpu_static.MACHINES[architecture]
    for sweep, launch in sweeps(name, architecture, torch.bfloat16, 64):
        result = gpu_static.compiled(launch, machine)
        assert result.spills == 0, sweep
        assert result.shared <= machine.shared_limit, sweep
        assert result.programs > 0, sweep
        assert bool(result.tensor) == (sweep not in SWEEPS_WITHOUT_PRODUCTS), sweep


@pytest.mark.parametrize(
    ("architecture", "instruction"), [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA")]
)
def test_each_generation_uses_its_own_matrix_unit(architecture, instruction):
    planned = gpu_static.launches(attention.get("softpick"), architecture, torch.bfloat16, 128)
    result = gpu_static.compiled(planned["mix"], gpu_static.MACHINES[architecture])
    assert set(result.tensor) == {instruction}


def test_float32_takes_three_tf32_products():
    planned = gpu_static.launches(attention.get("softmax"), "sm_80", torch.float32, 64)["mix"]
    assert planned.arguments["precision"] == "tf32x3"
    assert gpu_static.compiled(planned, gpu_static.MACHINES["sm_80"]).tensor


def test_an_architecture_that_no_tile_was_chosen_for_takes_those_of_its_elders():
    from attention.kernels.triton.tiles import tiles_for

    for newer, elder in (("sm_89", "sm_80"), ("sm_103", "sm_100"), ("sm_120", "sm_80")):
        assert tiles_for(newer, "mix", 64, 2) == tiles_for(elder, "mix", 64, 2)
