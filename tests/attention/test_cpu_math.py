"""The elementary functions of the C++ kernels, in units in the last place against float64."""

import ctypes

import numpy as np
import pytest
import torch

from attention.core.formula import UNARY
from attention.kernels.cpu.build import BuildError, build

SOURCE = '#include "simd.h"\n' + "\n".join(
    f'extern "C" void apply_{name}(const float* x, float* y, int n) '
    f"{{ for (int i = 0; i < n; i += LANES) store(y + i, {name}(load(x + i))); }}"
    for name in UNARY
)

UNITS = {"exp": 1.5, "expm1": 2.0, "log": 2.0, "log1p": 3.0, "sigmoid": 3.0, "softplus": 2.0, "tanh": 4.0}


def _exact(name: str, x: np.ndarray) -> np.ndarray:
    wide = torch.from_numpy(x).double()
    function = torch.nn.functional.softplus if name == "softplus" else getattr(torch, name)
    if name == "softplus":
        return torch.logaddexp(wide, torch.zeros_like(wide)).numpy()
    return function(wide).numpy()


@pytest.fixture(scope="module")
def library():
    try:
        return ctypes.CDLL(str(build("test-math", SOURCE)))
    except BuildError as error:
        pytest.skip(str(error))


def _apply(library, name: str, x: np.ndarray) -> np.ndarray:
    x = np.ascontiguousarray(x, np.float32)
    padded = np.zeros(-(-x.size // 16) * 16, np.float32)
    padded[: x.size] = x
    out = np.empty_like(padded)
    pointer = ctypes.POINTER(ctypes.c_float)
    getattr(library, f"apply_{name}")(
        padded.ctypes.data_as(pointer), out.ctypes.data_as(pointer), ctypes.c_int(padded.size)
    )
    return out[: x.size]


def _inputs(name: str) -> np.ndarray:
    small = np.logspace(-30, 1.9, 20_001)
    signed = np.concatenate([np.linspace(-86, 86, 40_001), small, -small])
    if name in ("log", "sqrt"):
        signed = np.abs(signed[signed != 0])
    if name == "log1p":
        signed = signed[signed > -1]
    return signed.astype(np.float32)


@pytest.mark.parametrize("name", UNARY)
def test_an_elementary_function_is_within_a_few_units_in_the_last_place(library, name):
    x = _inputs(name)
    found, exact = _apply(library, name, x).astype(np.float64), _exact(name, x)
    normal = np.abs(exact) > 2.0**-125
    units = np.abs(found - exact)[normal] / np.spacing(np.abs(exact[normal]).astype(np.float32))
    worst = units.argmax()
    assert units[worst] <= UNITS.get(name, 0.51), (
        f"{name}({x[normal][worst]!r}) is off by {units[worst]:.2f} units"
    )


@pytest.mark.parametrize("name", UNARY)
def test_special_values_are_those_of_pytorch(library, name):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, 100.0, -200.0], np.float32)
    if name == "expm1":
        x = x[:-1]  # -1, whatever the rounding
    found, expected = _apply(library, name, x), _exact(name, x)
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-37)
