"""What the Triton kernels compile to: no spills, matrix instructions, shared memory that fits. Nothing is run."""

import importlib.util

import pytest
import torch

import attention

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install triton==3.7.1)", allow_module_level=True)

from attention.forms import rowwise_forms
from attention.kernels.triton import forms
from attention.kernels.triton.launch import plan_backward, plan_forward
from attention.kernels.triton.tiles import family, tiles_for
from benchmarks import gpu_roofline, gpu_static

pytestmark = pytest.mark.slow

SWEEPS_WITHOUT_PRODUCTS = ("merge",)
FORWARD_ONLY = {"sm_80": ("mix",), "gfx942": ("mix", "grad_queries")}


def sweeps(name: str, architecture: str, dtype: torch.dtype, head_dim: int):
    planned = gpu_static.launches(attention.get(name), architecture, dtype, head_dim)
    chosen = FORWARD_ONLY.get(architecture, tuple(planned))
    return [(sweep, launch) for sweep, launch in planned.items() if sweep in chosen]


def test_every_form_that_has_a_file_has_a_representative():
    served = [form for name, form in rowwise_forms().items() if forms.has(name)]
    assert [attention.get(name).form for name in gpu_static.REPRESENTATIVES] == served


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


@pytest.mark.parametrize("sweep", ["mix", "sum_rows", "grad_queries", "grad_keys"])
def test_a_turn_of_the_loop_has_the_matrix_instructions_of_one_tile(sweep):
    """On sm_80 one of them multiplies 16 x 16 by 16 x 8. Were products missed, shares would be wrong."""
    planned = gpu_static.launches(attention.get("softpick"), "sm_80", torch.bfloat16, 64)[sweep]
    machine, tiles = gpu_static.MACHINES["sm_80"], planned.tiles
    text = gpu_static.listing(gpu_static.build(planned, machine), machine)
    instructions = gpu_roofline.inner_loop(text, machine)["HMMA"] * tiles.warps
    products = gpu_roofline.PRODUCTS[sweep]
    assert instructions * 16 * 16 * 8 == products * tiles.rows * tiles.keys * 64


def test_the_inner_loop_is_that_with_the_products():
    text = "\n".join(
        f"        /*{place:04x}*/               {each} ;" if each[0] != "." else f"{each}:"
        for place, each in enumerate(
            [
                "MOV R1",
                ".L_x_0",
                "FADD R1",
                ".L_x_1",
                "HMMA R1",
                "MUFU.EX2 R1",
                "BRA `(.L_x_1)",
                "@P0 BRA `(.L_x_0)",
            ]
        )
    )
    machine = gpu_static.MACHINES["sm_80"]
    assert gpu_roofline.inner_loop(text, machine) == {"HMMA": 1, "MUFU": 1, "BRA": 1}
    with pytest.raises(ValueError, match="no loop has matrix instructions"):
        gpu_roofline.inner_loop(text.replace("HMMA", "FMUL"), machine)


@pytest.mark.parametrize("name", ["gaussian", "softpick", "lssar"])
def test_a_single_row_of_a_single_head_compiles(name):
    """The compiler turns sizes of 1 into constants, which the interpreter does not."""
    one = {"batch": 1, "heads": 1, "group": 1, "queries": 1, "processors": 132}
    call = gpu_static.call(attention.get(name), "sm_90", **one)
    forward, out, statistics = plan_forward(call)
    assert len(forward) == 2 + (name == "lssar")
    backward, _ = plan_backward(call, statistics, torch.empty_like(out))
    for launch in (*forward, *backward):
        assert gpu_static.compiled(launch, gpu_static.MACHINES["sm_90"]).spills == 0


@pytest.mark.parametrize(("head_dim", "precision"), [(64, "tf32x3"), (256, "ieee")])
def test_float32_is_never_rounded_to_tf32(head_dim, precision):
    planned = gpu_static.launches(attention.get("softmax"), "sm_80", torch.float32, head_dim)["mix"]
    result = gpu_static.compiled(planned, gpu_static.MACHINES["sm_80"])
    assert planned.arguments["precision"] == precision
    assert bool(result.tensor) == (precision == "tf32x3")


def test_an_architecture_that_no_tile_was_chosen_for_takes_those_of_its_elders():
    for newer, elder in (("sm_89", "sm_80"), ("sm_103", "sm_100"), ("sm_120", "sm_80")):
        assert tiles_for(newer, "mix", 64, 2) == tiles_for(elder, "mix", 64, 2)
    assert [family(name) for name in ("sm_75", "gfx1100")] == [None, None]
