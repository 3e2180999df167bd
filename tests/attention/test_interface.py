"""What a caller's mistake gets, and what the registry offers."""

import dataclasses
import subprocess
import sys

import pytest
import torch

import attention
from attention import AttentionError, attend, get
from attention.forms.pointwise import Pointwise

Q = torch.zeros(1, 4, 4, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get("softpik"), "unknown mechanism 'softpik'; did you mean 'softpick'?"),
        (lambda: get("lssar", powr=3), "no option 'powr'; did you mean 'power'?"),
        (lambda: get("lssar", power=0), "power must be at least 1"),
        (lambda: get("swat", slopes="balance"), "did you mean 'balanced'?"),
        (lambda: get("gaussian", norm="rows"), "did you mean 'row'?"),
        (lambda: get(get("lssar"), power=3), "already made"),
        (lambda: attend(Q, Q, Q, "softmax", kernel="tile"), "unknown kernel 'tile'; did you mean 'tiled'?"),
        (lambda: attend(Q, Q, Q, "softmax", window=0), "window must be at least 1"),
        (lambda: get("swat", window=0), "window must be at least 1"),
        (lambda: attend(Q, Q[:, :2], Q[:, :2], "softmax"), "4 queries need at least as many keys, got 2"),
        (
            lambda: attend(Q, Q[:, :, :3], Q[:, :, :3], "softmax"),
            "4 query heads cannot be shared by 3 key heads",
        ),
        (
            lambda: attend(Q[0], Q, Q, "softmax"),
            "query must be [batch, length, heads, head_dim], got [4, 4, 8]",
        ),
        (lambda: attend(Q, Q[..., :4], Q, "softmax"), "key must be [1, keys, key heads, 8]"),
        (lambda: attend(Q, Q, Q[:, :3], "softmax"), "value must share batch, length and heads"),
        (lambda: attend(Q, Q.double(), Q, "softmax"), "key is torch.float64, the query torch.float32"),
        (lambda: attend(Q.int(), Q, Q, "softmax"), "query must be a floating type"),
        (
            lambda: attend(Q, Q, Q, "softmax", documents=torch.zeros(1, 3).long()),
            "documents must be integers [batch, 4]",
        ),
        (
            lambda: attend(Q, Q, Q, "softmax", documents=torch.zeros(2, 4).long()),
            "documents hold 2 sequences",
        ),
        (lambda: attend(Q, Q, Q, "lssa", scale=1.0), "lssa fixes the scale"),
        (lambda: attend(Q, Q, Q, "simrf", scale=-1.0), "simrf needs a scale above 0"),
        (
            lambda: attend(Q, Q, Q, "simrf", window=3),
            "simrf keeps a state of all earlier keys; it takes no window",
        ),
        (
            lambda: attend(Q, Q, Q, "simrf", kernel="tiled"),
            "no row functions for form Chunked; use chunked, dense",
        ),
        (
            lambda: attend(Q, Q, Q, "softmax", kernel="chunked"),
            "it scans mechanisms of form Chunked, not Ratio",
        ),
        (
            lambda: attend(Q, Q, Q, "softmax", state=attention.RecurrentState()),
            "a recurrent state serves causal calls of form Chunked",
        ),
        (
            lambda: attend(Q, Q, Q, "simrf", causal=False, state=attention.RecurrentState()),
            "a recurrent state serves causal calls of form Chunked; this one is not causal",
        ),
        (lambda: get("simrf", coupling="simplx"), "did you mean 'simplex'?"),
        (lambda: get("simrf", features=0), "at least 1 feature"),
        (lambda: get("simrf", chunk=0), "simrf's chunk must be at least 1"),
        (lambda: get("soft_lowrank", far="block"), "did you mean 'blocks'?"),
        (lambda: get("soft_lowrank", inverse="newtn"), "did you mean 'newton'?"),
        (lambda: get("soft_lowrank", chunk=10), "a chunk of 10 keys cannot be divided among 16 landmarks"),
        (
            lambda: get("soft_lowrank", far="global", summaries=2),
            "summaries must be at least 1 and belong to",
        ),
        (lambda: get("soft_lowrank", ridge=0), "ridge must be above 0"),
        (lambda: attend(Q, Q, Q, get("soft_lowrank", norm="symmetric")), "call it with causal=False"),
        (
            lambda: attend(Q, Q, Q, "gaussian", params={"sharp": Q}),
            "no parameter 'sharp'; did you mean 'sharpness'?",
        ),
        (lambda: attend(Q[:, :, :3], Q[:, :, :3], Q[:, :, :3], "swat"), "even number of heads, got 3"),
        (lambda: attention.weights(Q, Q, "softmax", heads=[4]), "head 4 does not exist: there are 4"),
        (lambda: attention.weights(Q, Q, "softmax", rows=[-5]), "row -5 does not exist"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(AttentionError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_mechanisms_cannot_share_a_name():
    class Impostor(Pointwise):
        name = "softmax"

    with pytest.raises(AttentionError, match="nameless does not say what bounds its weights have"):
        attention.register(type("Nameless", (Pointwise,), {"name": "nameless"}))
    with pytest.raises(AttentionError, match="two mechanisms are named 'softmax'"):
        attention.register(Impostor)


def test_every_mechanism_states_its_formula_paper_and_kernels():
    table = {entry.name: entry for entry in attention.capabilities()}
    assert list(table) == attention.names()
    assert {"softmax", "softpick", "lssa", "lssar", "swat", "gaussian"} <= set(table)
    for entry in table.values():
        assert entry.formula
        assert "arXiv" in entry.paper
        assert set(entry.kernels) >= {"dense", "chunked" if entry.form == "Chunked" else "tiled"}
        assert dataclasses.is_dataclass(get(entry.name))


@pytest.mark.slow
def test_attention_imports_nothing_from_the_rest_of_the_project():
    code = "import sys, attention; assert not {'models', 'data', 'training', 'eval'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_torchs_compiler_comes_with_the_first_call():
    code = "import sys, attention; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: attend(x, x, x, "softmax"),
        lambda x: attention.weights(x, x, "softmax"),
        lambda x: attention.weights(x, x, "softmax", kernel="dense"),
        lambda x: attention.row_stats(x, x, "softmax").entropy,
        lambda x: attention.entropy(x, x),
    ],
)
def test_autocast_does_not_reach_into_the_kernel(call):
    query = torch.randn(1, 8, 2, 8)
    plain = call(query)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(query), plain)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["dense", "tiled"])
def test_compiled_code_may_contain_it(kernel):
    def loss(query):
        return attend(query * 2, query, query, "softpick", kernel=kernel).square().sum()

    query = torch.randn(1, 8, 2, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(query), query)
    (found,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(query), query)
    assert torch.allclose(found, expected, atol=1e-6)
