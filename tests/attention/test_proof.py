"""Compiled code proves itself on its device: a kernel that is wrong is left out with one line, and refused by name."""

import json
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

import attention
from attention import AttentionError
from attention.conformance import checks
from attention.core import cache
from attention.core.inputs import example
from attention.forms.composite import Mixture
from attention.kernels import cpu, dense, dispatch, flex, proof, trial
from attention.kernels.kernel import Kernel, obstacle
from tests.attention.scaled import Scaled

SOFTMAX = attention.get("softmax")


class Toy(Kernel):
    """The formula, with a mistake where one is wanted."""

    name, summary, rank = "toy", "the formula", 1
    gives_mass = True
    mistake = "none"

    def refuses(self, inputs):
        return None

    def code(self, mechanism):
        return "toy 1"

    def run(self, inputs, *, with_mass=False):
        out, mass = dense.KERNEL.run(inputs, with_mass=with_mass)
        if self.mistake == "raises":
            raise RuntimeError("no kernel image\nis available")
        if self.mistake == "memory":
            raise MemoryError
        if self.mistake == "gradient":
            out = Scaled.apply(out, 1.01)
        decoding = out.shape[1] == 1 and self.mistake == "decoding"
        in_float32 = out.dtype == torch.float32 and self.mistake == "float32"
        if self.mistake == "mass" and mass is not None:
            mass = mass + 0.01
        if self.mistake == "output" or decoding or in_float32:
            out = out * 1.01
        if self.mistake == "nan":
            out = out + torch.nan
        return Mixture(out, mass)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The fastest kernel of all, and no verdict that is known or kept."""
    kernel = Toy()
    monkeypatch.setattr(dispatch, "KERNELS", {"toy": kernel, **dispatch.KERNELS})
    monkeypatch.setattr(proof, "_known", {})
    monkeypatch.setattr(proof, "_folder", lambda: tmp_path / "trials")
    proof._warn.cache_clear()
    return kernel


@pytest.fixture
def tries(monkeypatch):
    """The cases that are tried from now on."""
    cases = []

    def attempt(kernel, case):
        cases.append(case)
        return trial.attempt(kernel, case)

    monkeypatch.setattr(proof, "attempt", attempt)
    return cases


def call(dtype=torch.float32, **options):
    query = torch.ones(1, 5, 2, 64, dtype=dtype)
    return attention.attend(query, query, query, "softmax", **options)


def chosen(dtype=torch.float32):
    return dispatch.choose("auto", example(SOFTMAX, dtype=dtype)).name


def test_a_kernel_that_is_right_is_tried_once_for_all_processes(toy, tries, tmp_path):
    assert [chosen(), chosen()] == ["toy", "toy"]
    proof._known.clear()
    assert chosen() == "toy"
    assert tries == [trial.Case(SOFTMAX, torch.float32, torch.device("cpu"), 64, 64, 1)]
    (note,) = (tmp_path / "trials").iterdir()
    assert json.loads(note.read_text())["flaw"] is None
    assert note.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("output", "output errs"),
        ("gradient", "gradient of query errs"),
        ("decoding", "output errs"),
        ("nan", "output errs nan times"),
        ("raises", "it raises RuntimeError: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_is_left_out_with_one_line_and_refused_by_name(toy, mistake, said):
    toy.mistake = mistake
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            call()
            assert chosen() != "toy"
    lines = [str(warning.message) for warning in caught if "'toy'" in str(warning.message)]
    (line,) = lines
    assert line.startswith(f"kernel 'toy' is left out for softmax in float32 on cpu: {said}")
    assert line.endswith("run `python -m attention.check`, which tries again, and report its page")
    assert "\n" not in line
    with pytest.raises(
        AttentionError, match=r"'toy' cannot run softmax here: it failed its trial on cpu: .*use "
    ):
        call(kernel="toy")


def test_a_verdict_is_of_one_dtype(toy):
    toy.mistake = "float32"
    with pytest.warns(UserWarning, match="'toy' is left out for softmax in float32"):
        assert chosen() != "toy"
    assert chosen(torch.bfloat16) == chosen(torch.float64) == "toy"


def test_masses_are_tried_where_a_composite_wants_them(toy):
    toy.mistake = "mass"
    assert chosen() == "toy"
    composite = example(attention.get("weighted_softpick"))
    assert "log mass errs" in proof.flaw(toy, composite)


@pytest.mark.parametrize(
    "damage",
    [
        lambda note: "",
        lambda note: "{",
        lambda note: "[]",
        lambda note: "[" * 100_000,
        lambda note: json.dumps(note | {"more": 1}),
        lambda note: json.dumps(note | {"flaw": 5}),
        lambda note: json.dumps(note | {"ratio": "1"}),
        lambda note: json.dumps(note | {"ratio": 2.5}),
        lambda note: json.dumps(note | {"ratio": None}),
        lambda note: json.dumps(note | {"of": note["of"] | {"code": "toy 2"}}),
        lambda note: None,
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "deep",
        "more",
        "no words",
        "no number",
        "too large",
        "none",
        "of another",
        "open",
    ],
)
def test_a_verdict_that_cannot_be_trusted_is_found_anew(toy, tries, tmp_path, damage):
    assert chosen() == "toy"
    (note,) = (tmp_path / "trials").iterdir()
    before = json.loads(note.read_text())
    damaged = damage(before)
    note.chmod(0o666) if damaged is None else note.write_text(damaged)
    proof._known.clear()
    assert chosen() == "toy"
    assert len(tries) == 2
    assert json.loads(note.read_text()) == before
    assert cache.recall(note) == before


def test_where_nothing_can_be_kept_a_kernel_is_tried_all_the_same(toy, tries, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(proof, "_folder", lambda: tmp_path / "file" / "trials")
    assert [chosen(), chosen()] == ["toy", "toy"]
    assert len(tries) == 1


def test_a_new_trial_replaces_a_verdict(toy):
    toy.mistake = "output"
    with pytest.warns(UserWarning, match="left out"):
        assert chosen() != "toy"
    toy.mistake = "none"
    assert chosen() != "toy"
    case = trial.Case(SOFTMAX, torch.float32, torch.device("cpu"), 64, 64, 1)
    assert proof.renew(toy, case).ratio <= 1
    assert chosen() == "toy"
    assert proof.renew(dense.KERNEL, case) is None


def test_a_lack_of_memory_is_no_verdict(toy, tmp_path):
    toy.mistake = "memory"
    assert chosen() == "toy"
    assert not (tmp_path / "trials").exists()


def test_a_call_without_anything_to_compute_asks_for_no_trial(toy, tries):
    query, value = torch.ones(1, 5, 1, 8), torch.ones(1, 5, 1, 0)
    assert attention.attend(query, query, value, "softmax").shape == value.shape
    assert tries == []


def _in_a_backward_pass():
    class Within(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            assert chosen() == "toy"
            return grad

    Within.apply(torch.ones(1, requires_grad=True)).backward()


def test_within_a_backward_pass_it_waits_for_the_next_call(toy, tries):
    _in_a_backward_pass()
    assert tries == []
    assert chosen() == "toy"
    assert len(tries) == 1


def test_who_judges_kernels_sees_them_all(toy, monkeypatch):
    monkeypatch.setitem(checks.KERNELS, "toy", toy)
    toy.mistake = "output"
    with proof.waived():
        assert chosen() == "toy"
        call(kernel="toy")
    assert checks.outcome(SOFTMAX, "toy", "one key").startswith("FAILS")


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: 1 / 0, lambda x: x),
        FakeTensorMode,
        nullcontext,
    ],
    ids=["no_grad", "inference_mode", "autocast", "device", "hooks", "fake", "plain"],
)
def test_a_trial_knows_nothing_of_what_surrounds_the_call(toy, tries, surroundings):
    inputs = example(SOFTMAX, dtype=torch.float64)
    state = torch.get_rng_state()
    with surroundings():
        found = proof.flaw(toy, inputs)
    assert found is None
    assert len(tries) == 1
    assert torch.equal(torch.get_rng_state(), state)
    (verdict,) = proof._known.values()
    assert verdict is None
    assert proof._kept(proof._facts(toy, tries[0], "toy 1")).ratio <= 1


def test_a_compiler_that_traces_a_call_meets_the_verdict_as_a_constant(toy, tries):
    query = torch.randn(1, 5, 2, 8)
    compiled = torch.compile(lambda x: attention.attend(x, x, x, "softmax"), backend="eager", fullgraph=True)
    toy.mistake = "output"
    with pytest.warns(UserWarning, match="left out"):
        out = compiled(query)
    assert torch.allclose(out, attention.attend(*[query] * 3, "softmax", kernel="dense"), atol=1e-6)
    assert tries[0] == trial.Case(SOFTMAX, torch.float32, torch.device("cpu"), 8, 8, 1)
    torch._dynamo.reset()


@pytest.mark.skipif(obstacle(cpu.KERNEL, example(SOFTMAX)) is not None, reason="no C++ compiler")
@pytest.mark.parametrize("broken", [False, True])
def test_the_compiled_library_is_tried(toy, tries, monkeypatch, broken):
    run = cpu.Cpu.run
    if broken:
        monkeypatch.setattr(
            cpu.Cpu, "run", lambda *given, **named: Mixture(run(*given, **named).out * 1.01, None)
        )
    inputs = example(attention.get("softpick"))
    assert obstacle(cpu.KERNEL, inputs) is None
    found = proof.flaw(cpu.KERNEL, inputs)
    assert (found is None) != broken
    assert len(tries) == 1
    assert proof.flaw(dispatch.KERNELS["tiled"], inputs) is None
    assert len(tries) == 1


def test_flexattention_asks_for_its_proof_when_it_runs(toy, monkeypatch):
    monkeypatch.setattr(proof, "_verdict", lambda kernel, case: "output errs 7 times as much")
    with pytest.raises(
        AttentionError, match=r"'flex' cannot run softmax here: it failed its trial .* 7 times"
    ):
        flex.attend(example(SOFTMAX))
