"""What is particular to the C++ kernel: its building, its operators, its threads."""

import os
import subprocess
import sys

import pytest
import torch

import attention
from attention.conformance import cases
from attention.core.formula import formula_of
from attention.core.inputs import prepare
from attention.forms.composite import Composite
from attention.kernels import cpu, dispatch
from attention.kernels.cpu import ops
from attention.kernels.kernel import obstacle
from tests.attention.conftest import label, make, pointwise_mechanisms, run

pytestmark = pytest.mark.skipif(
    obstacle(cpu.KERNEL, attention.core.inputs.example(attention.get("softmax"))) is not None,
    reason="this machine cannot compile the C++ kernels",
)

DTYPES = [dtype for dtype in cpu.READ if cpu.available() and ops.unsupported(dtype) is None]
"""Those that the engine multiplies on this processor."""


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


ATTEND = "import torch, attention; q = torch.ones(1, 8, 2, 16); "


@pytest.mark.slow
def test_without_a_compiler_the_tiled_kernel_serves_with_one_warning(tmp_path):
    code = ATTEND + "[attention.attend(q, q, q, m) for m in ('softmax', 'softpick', 'softmax')]"
    done = _python(code, CXX="no-such-compiler", ATTENTION_ZOO_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the fused CPU kernels are off") == 1
    assert "no C++ compiler was found (no-such-compiler): install g++ or set CXX" in done.stderr


@pytest.mark.slow
def test_without_a_compiler_naming_the_kernel_is_refused(tmp_path):
    code = ATTEND + "attention.attend(q, q, q, 'softmax', kernel='cpu')"
    done = _python(code, CXX="no-such-compiler", ATTENTION_ZOO_CACHE=str(tmp_path))
    assert "AttentionError: kernel 'cpu' cannot run softmax here: no C++ compiler was found" in done.stderr


@pytest.mark.slow
def test_what_was_built_once_is_not_built_again(tmp_path):
    code = ATTEND + "attention.attend(q, q, q, 'softmax', kernel='cpu')"
    first, second = (_python(code, ATTENTION_ZOO_CACHE=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "compiling the CPU kernels" in first.stderr
    assert "compiling" not in second.stderr
    assert len(list(tmp_path.glob("*.so"))) == 2


@pytest.mark.slow
def test_building_ahead_of_time_covers_every_pointwise_mechanism():
    done = subprocess.run([sys.executable, "-m", "attention.build"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    composites = [mechanism for mechanism in cases() if isinstance(mechanism, Composite)]
    assert done.stdout.count("ready") == len(pointwise_mechanisms()) + len(composites)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", pointwise_mechanisms(), ids=label)
def test_one_head_on_many_threads_equals_one_thread(mechanism):
    inputs = make(batch=1, queries=400, heads=2, key_heads=1, head_dim=16).to(torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(inputs, mechanism, "cpu")
        torch.set_num_threads(3)
        shared = run(inputs, mechanism, "cpu")
        again = run(inputs, mechanism, "cpu")
    finally:
        torch.set_num_threads(threads)
    for name, expected in alone.items():
        torch.testing.assert_close(shared[name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        assert torch.equal(shared[name], again[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_operator_keeps_the_rules_of_operators(dtype):
    mechanism = attention.get("gaussian", normalise=False)
    ops.load_mechanism(formula_of(mechanism))
    inputs = make(batch=1, queries=9, heads=2, key_heads=1, head_dim=16).to(dtype)
    prepared = attention.core.inputs.prepare(*inputs.all[:3], mechanism)
    arguments = (*prepared.operands, None, 0.0, formula_of(mechanism).key, True, False, False)
    detached = tuple(
        x.detach().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in arguments
    )
    torch.library.opcheck(torch.ops.attention_zoo_cpu.forward.default, detached)


@pytest.mark.parametrize("name", ["softpick", "sigmoid"])
def test_what_the_engine_does_not_multiply_is_computed_in_float32(name):
    inputs = make(batch=1, queries=40, heads=2, key_heads=1, head_dim=16).to(torch.float16)
    half = run(inputs, attention.get(name), "cpu")
    wide = run(inputs.to(torch.float32), attention.get(name), "cpu")
    for key, found in half.items():
        assert found.dtype == torch.float16
        assert torch.equal(found, wide[key].half()), key


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_tiles_without_weights_are_not_read(name, dtype):
    inputs = make(batch=1, queries=400, heads=2, key_heads=1, head_dim=16)
    near = torch.arange(400) // 134  # queries find keys of their own part only
    for tensor in (inputs.query, inputs.key):
        tensor.data[..., :3] = 30 * (near[:, None] == torch.arange(3))[None, :, None]
    inputs = inputs.to(dtype)
    expected = run(inputs, attention.get(name), "cpu")
    inputs.value.data[:, :128] = torch.nan
    poisoned = run(inputs, attention.get(name), "cpu")
    for tensor, clean in ((poisoned["out"], expected["out"]), (poisoned["query"], expected["query"])):
        assert torch.equal(tensor[:, 268:], clean[:, 268:])


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("name", ["softmax", "lssar", "sparsemax"])
def test_few_queries_give_what_many_give(name, queries):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 70, 4, 20), torch.randn(2, 70, 2, 20), torch.randn(2, 70, 2, 40)
    found = attention.attend(query[:, -queries:], key, value, name, kernel="cpu")
    whole = attention.attend(query, key, value, name, kernel="cpu")[:, -queries:]
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_few_queries_of_one_sequence_are_not_told_of_another():
    # Widths that no register divides, so that both are copied, the longer values where keys are read next.
    query, key, value = torch.ones(2, 1, 1, 20), torch.ones(2, 9, 1, 20), torch.ones(2, 9, 1, 28)
    value[0] = torch.inf
    assert attention.attend(query, key, value, "softmax", kernel="cpu")[1].isfinite().all()


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("name", ["softpick", "sigmoid", "lssar"])
def test_keys_of_several_bands_have_the_gradients_of_the_formula(name, window):
    inputs = make(batch=1, queries=2100, heads=2, key_heads=1, head_dim=16)
    mechanism, mask = attention.get(name), {} if window is None else {"window": window}
    truth = run(inputs, mechanism, "tiled", **mask)
    for name, found in run(inputs.to(torch.float32), mechanism, "cpu", **mask).items():
        torch.testing.assert_close(found, truth[name].float(), rtol=1e-3, atol=1e-5)


def test_the_log_mass_of_keys_of_several_bands_has_its_gradient_once():
    inputs = make(batch=1, queries=2100, heads=2, head_dim=16, key_heads=2)
    gradients = []
    for kernel, dtype in (("tiled", torch.float64), ("cpu", torch.float32)):
        query, key, value = (x.detach().to(dtype).requires_grad_() for x in inputs.all[:3])
        call = prepare(query, key, value, attention.get("softpick"))
        found = dispatch.KERNELS[kernel].run(call, with_mass=True)
        (found.out.sum() + found.log_mass.cos().sum()).backward()
        gradients.append((query.grad, key.grad, value.grad))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-5)
