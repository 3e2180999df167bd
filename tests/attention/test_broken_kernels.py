"""Every check can fail: for each there is a kernel with one mistake that it catches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import attention
from attention.conformance import CHECKS, failures, outcome
from attention.conformance.__main__ import main
from attention.conformance.table import page, read
from attention.kernels import dense, dispatch
from attention.kernels.kernel import Kernel
from attention.kernels.modes import EVERY, asked
from attention.kernels.problem import Problem, pose
from common.command import guarded

SOFTMAX = attention.get("softmax")


@dataclass(frozen=True)
class Softmax(type(SOFTMAX)):
    """Softmax by a formula without a pivot."""

    def weights(self, score, visible):
        exponential = score.exp() * visible
        return exponential / exponential.sum(-1, keepdim=True)


class _Scaled(torch.autograd.Function):
    """The identity whose gradient is too large."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.5


class _Flat(torch.autograd.Function):
    """The identity without a tangent."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad

    @staticmethod
    def jvp(ctx, tangent):
        return torch.zeros_like(tangent)


class _Straight(torch.autograd.Function):
    """The square, whose gradient counts as constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return grad.detach() * 2 * ctx.saved_tensors[0].detach()


def _recomputed() -> Callable[[Problem], torch.Tensor]:
    """Right in the first of any two calls."""
    calls = []

    def attend(problem: Problem) -> torch.Tensor:
        calls.append(problem)
        return dense.attend(problem) * (1 if len(calls) % 2 else 2)

    return attend


def _within_transforms(problem: Problem) -> torch.Tensor:
    return dense.attend(problem) * (2 if asked(problem.differentiable) else 1)


def _posed_as(problem: Problem, **masks) -> torch.Tensor:
    """The call under other masks."""
    visible = problem.visible
    masks = {
        "causal": visible.causal,
        "window": visible.window,
        "documents": visible.documents,
        "scale": None,
        "params": None,
    } | masks
    query, key = problem.scores.query, problem.scores.key
    return dense.attend(pose(query, key, problem.value, problem.mechanism, **masks))


def _seen(problem: Problem, **edges) -> torch.Tensor:
    return dense.attend(replace(problem, visible=replace(problem.visible, **edges)))


def _in(dtype: torch.dtype, only: torch.dtype) -> Callable[[Problem], torch.Tensor]:
    def attend(problem: Problem) -> torch.Tensor:
        out = dense.attend(problem)
        return out.to(dtype).to(only) if out.dtype == only else out

    return attend


def _coarse(steps: int, dtype: torch.dtype) -> Callable[[Problem], torch.Tensor]:
    """Outputs rounded to a grid."""

    def attend(problem: Problem) -> torch.Tensor:
        out = dense.attend(problem)
        return out + ((out * steps).round() / steps - out).detach() if out.dtype == dtype else out

    return attend


def _clamped(problem: Problem) -> torch.Tensor:
    scores = problem.scores
    return dense.attend(replace(problem, scores=replace(scores, query=scores.query.clamp(-3, 3))))


def _narrow(problem: Problem) -> torch.Tensor:
    scores = problem.scores
    if scores.query.shape[-1] <= 128:
        return dense.attend(problem)
    query = torch.cat([scores.query[..., :128], torch.zeros_like(scores.query[..., 128:])], -1)
    return dense.attend(replace(problem, scores=replace(scores, query=query)))


def _value_as_wide_as_key(problem: Problem) -> torch.Tensor:
    out, head_dim = dense.attend(problem), problem.scores.query.shape[-1]
    return torch.cat([out[..., :head_dim], torch.zeros_like(out[..., head_dim:])], -1)


def _heads_in_the_wrong_order(problem: Problem) -> torch.Tensor:
    groups = problem.scores.query.shape[2] // problem.scores.key.shape[2]
    key, value = (x.repeat(1, 1, groups, 1) for x in (problem.scores.key, problem.value))
    return dense.attend(replace(problem, value=value, scores=replace(problem.scores, key=key)))


def _whole_blocks_only(problem: Problem) -> torch.Tensor:
    out = dense.attend(problem)
    whole = out.shape[1] // 64 * 64
    return out if whole == 0 else torch.cat([out[:, :whole], torch.zeros_like(out[:, whole:])], 1)


def _strides_ignored(problem: Problem) -> torch.Tensor:
    value = problem.value
    return dense.attend(
        replace(problem, value=value.as_strided(value.shape, torch.empty(value.shape).stride()))
    )


def _nan_on_empty_rows(problem: Problem) -> torch.Tensor:
    count = problem.visible.count[..., None, None]
    return dense.attend(problem) * (count / count)


def _nan_where_one_key_is_seen(problem: Problem) -> torch.Tensor:
    spread = problem.visible.count[..., None, None] - 1
    return dense.attend(problem) * (spread / spread if (spread >= 0).all() else 1)


def _counted_from_the_first_query(problem: Problem) -> torch.Tensor:
    offset = problem.visible.keys - problem.scores.query.shape[1]
    return _seen(problem, last=problem.visible.last - offset)


def _leaks(problem: Problem) -> torch.Tensor:
    return dense.attend(problem) + 1e-12 * problem.value.mean(1, keepdim=True).mean(2, keepdim=True)


def _noise(problem: Problem) -> torch.Tensor:
    out = dense.attend(problem)
    return out + torch.finfo(out.dtype).eps * torch.randn_like(out)


def _uninitialised(problem: Problem) -> torch.Tensor:
    out = dense.attend(problem)
    return out + 0 * torch.empty_like(out).clamp(-1, 1)


def _wrong_when_compiled(problem: Problem) -> torch.Tensor:
    return dense.attend(problem) * (2 if torch.compiler.is_compiling() else 1)


def _gradient_unscaled(problem: Problem) -> torch.Tensor:
    scores = problem.scores
    return dense.attend(replace(problem, scores=replace(scores, query=_Scaled.apply(scores.query))))


BROKEN: dict[str, Callable[[Problem], torch.Tensor]] = {
    "float64": _in(torch.float32, only=torch.float64),
    "float32": _in(torch.bfloat16, only=torch.float32),
    "bfloat16": _coarse(50, torch.bfloat16),
    "float16": _in(torch.bfloat16, only=torch.float16),
    "trained activations": _clamped,
    "bounds": lambda problem: dense.attend(problem) * 1.02,
    "head dims": _narrow,
    "value dims": _value_as_wide_as_key,
    "grouped heads": _heads_in_the_wrong_order,
    "ragged lengths": _whole_blocks_only,
    "short lengths": lambda problem: dense.attend(problem) * (1.1 if problem.visible.keys == 7 else 1),
    "non-contiguous": _strides_ignored,
    "window": lambda problem: _seen(problem, first=(problem.visible.first - 1).clamp(min=0)),
    "documents": lambda problem: _posed_as(problem, documents=None),
    "not causal": lambda problem: _posed_as(problem, causal=True),
    "one key": _nan_where_one_key_is_seen,
    "empty rows": _nan_on_empty_rows,
    "decode": _counted_from_the_first_query,
    "causality": _leaks,
    "extreme scores": lambda problem: dense.attend(replace(problem, mechanism=Softmax())),
    "in training": lambda problem: dense.attend(problem) * (1.1 if problem.call.moment.training else 1),
    "determinism": _noise,
    "poisoned memory": _uninitialised,
    "torch.compile": _wrong_when_compiled,
    "forward mode": lambda problem: _Flat.apply(dense.attend(problem)),
    "second derivatives": lambda problem: _Straight.apply(dense.attend(problem)),
    "torch.func": _within_transforms,
    "vmap": _within_transforms,
    "recomputation": _recomputed(),
    "no gradient": lambda problem: dense.attend(problem) * (1 if torch.is_grad_enabled() else 2),
}


@pytest.fixture
def install(monkeypatch):
    """Register a kernel named "toy"."""

    def add(attend, refuses=lambda problem: None) -> None:
        monkeypatch.setitem(dispatch.KERNELS, "toy", Kernel("toy", attend, refuses, "a toy", serves=EVERY))

    return add


@pytest.mark.parametrize("check", CHECKS)
def test_a_kernel_with_one_mistake_is_caught_by_the_check_for_it(check, install):
    install(dense.attend)
    assert outcome(SOFTMAX, "toy", check) == "yes"
    install(BROKEN[check])
    assert outcome(SOFTMAX, "toy", check).startswith("FAILS: ")


@pytest.mark.parametrize("check", ["float32", "head dims", "grouped heads", "documents"])
def test_a_gradient_of_the_wrong_size_is_caught(check, install):
    install(_gradient_unscaled)
    (line,) = failures(SOFTMAX, "toy", [check])
    assert ", query: error" in line


@dataclass(frozen=True)
class Noisy(type(SOFTMAX)):
    """Softmax whose gradient is noise in every precision but the truth's."""

    def weights(self, score, visible):
        noise = 0.0 if score.dtype == torch.float64 else 1e3 * (_Scaled.apply(score) - score)
        return super().weights(score + noise, visible)


def test_what_is_not_judged_is_told_and_survives_the_page(install, tmp_path):
    install(dense.attend)
    found = outcome(Noisy(), "toy", "float32")
    assert found.startswith("exempt: the formula itself returns noise: gaussian inputs, query, ")
    row = dict.fromkeys(CHECKS, "yes") | {"float32": found, "one key": found, "window": "no: for a reason"}
    (tmp_path / "table.md").write_text(page({("softmax", "dense"): row}, "cpu"))
    assert read(tmp_path / "table.md") == ({("softmax", "dense"): row}, "cpu")


def test_a_refusal_is_told_and_hides_no_failure(install):
    def refuses(problem: Problem) -> str | None:
        return "it takes at most 64 channels" if problem.scores.query.shape[-1] > 64 else None

    install(dense.attend, refuses)
    assert outcome(SOFTMAX, "toy", "head dims") == "no: it takes at most 64 channels"
    assert outcome(SOFTMAX, "toy", "window") == "yes"
    install(lambda problem: dense.attend(problem) * 1.01, refuses)
    assert outcome(SOFTMAX, "toy", "head dims").startswith("FAILS: head_dim 16, out: error")


def test_an_unexpected_exception_is_a_failure(install):
    def attend(problem: Problem) -> torch.Tensor:
        raise RuntimeError("out of registers")

    install(attend)
    assert failures(SOFTMAX, "toy", ["window"]) == ["window: FAILS: RuntimeError: out of registers"]


def test_a_graph_break_is_no_failure(install):
    def attend(problem: Problem) -> torch.Tensor:
        torch._dynamo.graph_break()
        return dense.attend(problem)

    install(attend)
    assert outcome(SOFTMAX, "toy", "torch.compile").startswith("no: graph break")


def _command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["conformance", *arguments])
    with pytest.raises(SystemExit) as end:
        guarded(main)
    return end.value.code


def test_the_command_writes_what_it_found_beside_what_it_knew(install, monkeypatch, tmp_path, capsys):
    file = tmp_path / "table.md"

    def refuses(problem: Problem) -> str | None:
        return "float64 is too long" if problem.value.dtype == torch.float64 else None

    install(lambda problem: dense.attend(problem) * 1.01, refuses)
    assert _command(monkeypatch, "--mechanism", "softmax", "--kernel", "dense", "--write", str(file)) == 0
    assert _command(monkeypatch, "--mechanism", "softmax", "--kernel", "toy", "--write", str(file)) == 1
    assert "window FAILS: window 5 of 75 keys, out: error" in capsys.readouterr().out
    outcomes, device = read(file)
    assert device == "cpu"
    assert set(outcomes) == {("softmax", "dense"), ("softmax", "toy")}
    assert set(outcomes["softmax", "dense"].values()) == {"yes"}
    found = outcomes["softmax", "toy"]
    assert found["decode"] == outcome(SOFTMAX, "toy", "decode")
    assert found["empty rows"] == "yes"
    assert found["float64"] == "no: float64 is too long"
    assert page(outcomes, device) == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mechanism", "softmix"], "unknown mechanism 'softmix'; did you mean 'softmax'?"),
        (["--kernel", "dens"], "unknown kernel 'dens'; did you mean 'dense'?"),
        (["--device", "gpu"], "cannot run on device 'gpu'"),
        (["--write", "nowhere/table.md"], "there is no folder nowhere"),
        (["--write", "README.md"], "README.md is not a capability table"),
    ],
)
def test_a_mistake_on_the_command_line_costs_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert _command(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_unknown_names_are_refused():
    with pytest.raises(attention.AttentionError, match="did you mean 'tiled'"):
        outcome(SOFTMAX, "tile", "window")
    with pytest.raises(attention.AttentionError, match="did you mean 'window'"):
        outcome(SOFTMAX, "tiled", "windows")
