"""Noise of the C++ kernels: the same words as PyTorch's, wherever scores are computed."""

import ctypes
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import attention
from attention.conformance.inputs import make
from attention.core.call import Call, Phase
from attention.core.inputs import example
from attention.core.noise import WORD, philox
from attention.core.scores import Noise, Scores
from attention.kernels import cpu
from attention.kernels.cpu.build import BuildError, build
from attention.kernels.kernel import obstacle
from attention.mechanisms.entmax15 import Entmax15
from attention.mechanisms.lssar import Lssar
from attention.mechanisms.softmax import Softmax

pytestmark = pytest.mark.skipif(
    obstacle(cpu.KERNEL, example(attention.get("softmax"))) is not None,
    reason="this machine cannot compile the C++ kernels",
)

AMPLITUDE = 0.7

SOURCE = """#include "noise.h"
extern "C" void words(const uint32_t* counter, uint64_t key, uint32_t* word) {
  for (int i = 0; i < 16; i += LANES) {
    uvec at[4];
    for (int k = 0; k < 4; k++) std::memcpy(&at[k], counter + 16 * k + i, sizeof(uvec));
    uvec found = philox(at[0], at[1], at[2], at[3], key);
    std::memcpy(word + i, &found, sizeof(found));
  }
}"""


def _noisy(form):
    @dataclass(frozen=True)
    class Noisy(form):
        def scores(self, query: torch.Tensor, key: torch.Tensor, call: Call) -> Scores:
            scores = super().scores(query, key, call)
            phase = call.phase
            return replace(scores, noise=Noise(phase.seed, AMPLITUDE, phase.first_sequence))

    return Noisy()


NOISY = [_noisy(form) for form in (Softmax, Entmax15, Lssar)]
mechanisms = pytest.mark.parametrize("mechanism", NOISY, ids=lambda x: x.name)


def test_words_are_those_of_pytorch():
    try:
        library = ctypes.CDLL(str(build("test-noise", SOURCE)))
    except BuildError as error:
        pytest.skip(str(error))
    generator = np.random.default_rng(0)
    counter = generator.integers(0, 2**32, (4, 16), dtype=np.uint32)
    counter[:, 0] = 0
    for key in (0, 2**64 - 1, 0x0123456789ABCDEF):
        found = np.zeros(16, np.uint32)
        pointer = ctypes.POINTER(ctypes.c_uint32)
        library.words(counter.ctypes.data_as(pointer), ctypes.c_uint64(key), found.ctypes.data_as(pointer))
        places = tuple(torch.from_numpy(x.astype(np.int64)) for x in counter)
        expected = philox(places, (torch.tensor(key & WORD), torch.tensor(key >> 32)))
        assert found.tolist() == expected.tolist()


def _run(mechanism, kernel: str, inputs, seed: int, **masks: Any) -> list[torch.Tensor]:
    out = attention.attend(
        *inputs.all[:3], mechanism, kernel=kernel, phase=Phase(True, 0.5, torch.tensor(seed)), **masks
    )
    return [out, *torch.autograd.grad(out, inputs.all[:3], inputs.grad_out.to(out.dtype))]


CALLS: dict[str, dict[str, Any]] = {
    "blocks": {"batch": 2, "queries": 150},
    "few queries": {"queries": 3, "keys": 70},
    "a window": {"queries": 200, "window": 40},
}


@mechanisms
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_noise_is_that_of_the_formula(mechanism, call):
    masks = {"window": call.get("window")}
    shape = {name: value for name, value in call.items() if name != "window"}
    inputs = make(**shape, heads=4, key_heads=2, head_dim=16)
    truth = _run(mechanism, "dense", inputs, -5, **masks)
    found = _run(mechanism, "cpu", inputs.to(torch.float32), -5, **masks)
    other = _run(mechanism, "cpu", inputs.to(torch.float32), 6, **masks)
    for tensor, expected, different in zip(found, truth, other, strict=True):
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(different.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_new_seed_does_not_compile_anew():
    mechanism = NOISY[0]
    inputs = make(batch=1, queries=40, heads=2, key_heads=1, head_dim=16).to(torch.float32)
    torch._dynamo.reset()
    compiles = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=compiles, fullgraph=True)
    def call(query, key, value, seed, first):
        phase = Phase(True, 0.5, seed, first)
        return attention.attend(query, key, value, mechanism, kernel="cpu", phase=phase)

    places = [(torch.tensor(seed), torch.tensor(first)) for seed, first in ((1, 0), (2, 0), (2, 4))]
    outs = [call(*inputs.all[:3], *place) for place in places]
    torch._dynamo.reset()
    assert compiles.frame_count == 1
    for place, out in zip(places, outs, strict=True):
        phase = Phase(True, 0.5, *place)
        assert torch.equal(out, attention.attend(*inputs.all[:3], mechanism, kernel="cpu", phase=phase))
