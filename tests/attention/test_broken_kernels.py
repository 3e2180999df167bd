"""Every check can fail: for each there is a kernel with one mistake that it catches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import attention
from attention.command import guarded
from attention.conformance import CHECKS, failures, outcome
from attention.conformance.__main__ import main
from attention.conformance.table import page, read
from attention.core.call import CallSpec
from attention.core.inputs import AttentionInputs, prepare
from attention.core.modes import EVERY, asked
from attention.forms.composite import Mixture
from attention.kernels import dense, dispatch
from attention.kernels.kernel import Kernel
from tests.attention.scaled import Scaled

pytestmark = pytest.mark.slow

SOFTMAX = attention.get("softmax")


@dataclass(frozen=True)
class Softmax(type(SOFTMAX)):
    """Softmax by a formula without a pivot."""

    def weights(self, score, visible):
        exponential = score.exp() * visible
        return exponential / exponential.sum(-1, keepdim=True)


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


def _recomputed() -> Callable[[AttentionInputs], torch.Tensor]:
    """Right in the first of any two calls."""
    calls = []

    def attend(inputs: AttentionInputs) -> torch.Tensor:
        calls.append(inputs)
        return dense.attend(inputs) * (1 if len(calls) % 2 else 2)

    return attend


def _within_transforms(inputs: AttentionInputs) -> torch.Tensor:
    return dense.attend(inputs) * (2 if asked(inputs.differentiable) else 1)


def _prepared_as(inputs: AttentionInputs, **masks) -> torch.Tensor:
    """The call under other masks."""
    visible = inputs.visible
    masks = {
        "causal": visible.causal,
        "window": visible.window,
        "documents": visible.documents,
        "scale": None,
        "params": None,
    } | masks
    query, key = inputs.scores.query, inputs.scores.key
    return dense.attend(prepare(query, key, inputs.value, inputs.mechanism, CallSpec(**masks)))


def _seen(inputs: AttentionInputs, **edges) -> torch.Tensor:
    return dense.attend(replace(inputs, visible=replace(inputs.visible, **edges)))


def _in(dtype: torch.dtype, only: torch.dtype) -> Callable[[AttentionInputs], torch.Tensor]:
    def attend(inputs: AttentionInputs) -> torch.Tensor:
        out = dense.attend(inputs)
        return out.to(dtype).to(only) if out.dtype == only else out

    return attend


def _coarse(steps: int, dtype: torch.dtype) -> Callable[[AttentionInputs], torch.Tensor]:
    """Outputs rounded to a grid."""

    def attend(inputs: AttentionInputs) -> torch.Tensor:
        out = dense.attend(inputs)
        return out + ((out * steps).round() / steps - out).detach() if out.dtype == dtype else out

    return attend


def _clamped(inputs: AttentionInputs) -> torch.Tensor:
    scores = inputs.scores
    return dense.attend(replace(inputs, scores=replace(scores, query=scores.query.clamp(-3, 3))))


def _narrow(inputs: AttentionInputs) -> torch.Tensor:
    scores = inputs.scores
    if scores.query.shape[-1] <= 128:
        return dense.attend(inputs)
    query = torch.cat([scores.query[..., :128], torch.zeros_like(scores.query[..., 128:])], -1)
    return dense.attend(replace(inputs, scores=replace(scores, query=query)))


def _value_as_wide_as_key(inputs: AttentionInputs) -> torch.Tensor:
    out, head_dim = dense.attend(inputs), inputs.scores.query.shape[-1]
    return torch.cat([out[..., :head_dim], torch.zeros_like(out[..., head_dim:])], -1)


def _heads_in_the_wrong_order(inputs: AttentionInputs) -> torch.Tensor:
    groups = inputs.scores.query.shape[2] // inputs.scores.key.shape[2]
    key, value = (x.repeat(1, 1, groups, 1) for x in (inputs.scores.key, inputs.value))
    return dense.attend(replace(inputs, value=value, scores=replace(inputs.scores, key=key)))


def _whole_blocks_only(inputs: AttentionInputs) -> torch.Tensor:
    out = dense.attend(inputs)
    whole = out.shape[1] // 64 * 64
    return out if whole == 0 else torch.cat([out[:, :whole], torch.zeros_like(out[:, whole:])], 1)


def _strides_ignored(inputs: AttentionInputs) -> torch.Tensor:
    value = inputs.value
    return dense.attend(
        replace(inputs, value=value.as_strided(value.shape, torch.empty(value.shape).stride()))
    )


def _nan_on_empty_rows(inputs: AttentionInputs) -> torch.Tensor:
    count = inputs.visible.count[..., None, None]
    return dense.attend(inputs) * (count / count)


def _nan_where_one_key_is_seen(inputs: AttentionInputs) -> torch.Tensor:
    spread = inputs.visible.count[..., None, None] - 1
    return dense.attend(inputs) * (spread / spread if (spread >= 0).all() else 1)


def _counted_from_the_first_query(inputs: AttentionInputs) -> torch.Tensor:
    offset = inputs.visible.keys - inputs.scores.query.shape[1]
    return _seen(inputs, last=inputs.visible.last - offset)


def _leaks(inputs: AttentionInputs) -> torch.Tensor:
    return dense.attend(inputs) + 1e-12 * inputs.value.mean(1, keepdim=True).mean(2, keepdim=True)


def _noise(inputs: AttentionInputs) -> torch.Tensor:
    out = dense.attend(inputs)
    return out + torch.finfo(out.dtype).eps * torch.randn_like(out)


def _uninitialised(inputs: AttentionInputs) -> torch.Tensor:
    out = dense.attend(inputs)
    return out + 0 * torch.empty_like(out).clamp(-1, 1)


def _wrong_when_compiled(inputs: AttentionInputs) -> torch.Tensor:
    return dense.attend(inputs) * (2 if torch.compiler.is_compiling() else 1)


def _gradient_unscaled(inputs: AttentionInputs) -> torch.Tensor:
    scores = inputs.scores
    return dense.attend(replace(inputs, scores=replace(scores, query=Scaled.apply(scores.query, 1.5))))


BROKEN: dict[str, Callable[[AttentionInputs], torch.Tensor]] = {
    "float64": _in(torch.float32, only=torch.float64),
    "float32": _in(torch.bfloat16, only=torch.float32),
    "bfloat16": _coarse(50, torch.bfloat16),
    "float16": _in(torch.bfloat16, only=torch.float16),
    "trained activations": _clamped,
    "bounds": lambda inputs: dense.attend(inputs) * 1.02,
    "head dims": _narrow,
    "value dims": _value_as_wide_as_key,
    "grouped heads": _heads_in_the_wrong_order,
    "ragged lengths": _whole_blocks_only,
    "short lengths": lambda inputs: dense.attend(inputs) * (1.1 if inputs.visible.keys == 7 else 1),
    "non-contiguous": _strides_ignored,
    "window": lambda inputs: _seen(inputs, first=(inputs.visible.first - 1).clamp(min=0)),
    "documents": lambda inputs: _prepared_as(inputs, documents=None),
    "not causal": lambda inputs: _prepared_as(inputs, causal=True),
    "one key": _nan_where_one_key_is_seen,
    "empty rows": _nan_on_empty_rows,
    "decode": _counted_from_the_first_query,
    "causality": _leaks,
    "extreme scores": lambda inputs: dense.attend(replace(inputs, mechanism=Softmax())),
    "in training": lambda inputs: dense.attend(inputs) * (1.1 if inputs.call.phase.training else 1),
    "determinism": _noise,
    "poisoned memory": _uninitialised,
    "torch.compile": _wrong_when_compiled,
    "forward mode": lambda inputs: _Flat.apply(dense.attend(inputs)),
    "second derivatives": lambda inputs: _Straight.apply(dense.attend(inputs)),
    "torch.func": _within_transforms,
    "vmap": _within_transforms,
    "recomputation": _recomputed(),
    "no gradient": lambda inputs: dense.attend(inputs) * (1 if torch.is_grad_enabled() else 2),
}


@dataclass(frozen=True)
class Toy(Kernel):
    """A kernel made of functions."""

    attend: Callable[[AttentionInputs], torch.Tensor]
    declines: Callable[[AttentionInputs], str | None]
    name, summary, rank, modes = "toy", "a toy", 0, EVERY

    def refuses(self, inputs: AttentionInputs) -> str | None:
        return self.declines(inputs)

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        return Mixture(self.attend(inputs), None)


@pytest.fixture
def install(monkeypatch):
    """Register a kernel named "toy"."""

    def add(attend, refuses=lambda inputs: None) -> None:
        monkeypatch.setitem(dispatch.KERNELS, "toy", Toy(attend, refuses))

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
        noise = 0.0 if score.dtype == torch.float64 else 1e3 * (Scaled.apply(score, 1.5) - score)
        return super().weights(score + noise, visible)


def test_what_is_not_judged_is_told_and_survives_the_page(install, tmp_path):
    install(dense.attend)
    found = outcome(Noisy(), "toy", "float32")
    assert found.startswith("exempt: the formula itself returns noise: gaussian inputs, query, ")
    row = dict.fromkeys(CHECKS, "yes") | {"float32": found, "one key": found, "window": "no: for a reason"}
    (tmp_path / "table.md").write_text(page({("softmax", "dense"): row}, "cpu"))
    assert read(tmp_path / "table.md") == ({("softmax", "dense"): row}, "cpu")


def test_a_refusal_is_told_and_hides_no_failure(install):
    def refuses(inputs: AttentionInputs) -> str | None:
        return "it takes at most 64 channels" if inputs.scores.query.shape[-1] > 64 else None

    install(dense.attend, refuses)
    assert outcome(SOFTMAX, "toy", "head dims") == "no: it takes at most 64 channels"
    assert outcome(SOFTMAX, "toy", "window") == "yes"
    install(lambda inputs: dense.attend(inputs) * 1.01, refuses)
    assert outcome(SOFTMAX, "toy", "head dims").startswith("FAILS: head_dim 16, out: error")


def test_an_unexpected_exception_is_a_failure(install):
    def attend(inputs: AttentionInputs) -> torch.Tensor:
        raise RuntimeError("out of registers")

    install(attend)
    assert failures(SOFTMAX, "toy", ["window"]) == ["window: FAILS: RuntimeError: out of registers"]


def test_a_graph_break_is_no_failure(install):
    def attend(inputs: AttentionInputs) -> torch.Tensor:
        torch._dynamo.graph_break()
        return dense.attend(inputs)

    install(attend)
    assert outcome(SOFTMAX, "toy", "torch.compile").startswith("no: graph break")


def _command(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["conformance", *arguments])
    with pytest.raises(SystemExit) as end:
        guarded(main)
    return end.value.code


def test_the_command_writes_what_it_found_beside_what_it_knew(install, monkeypatch, tmp_path, capsys):
    file = tmp_path / "table.md"

    def refuses(inputs: AttentionInputs) -> str | None:
        return "float64 is too long" if inputs.value.dtype == torch.float64 else None

    install(lambda inputs: dense.attend(inputs) * 1.01, refuses)
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
        (["--device", "meta"], "cannot run on device 'meta'"),
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
