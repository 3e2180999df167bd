"""Every mode of autograd: right or refused; `dense` serves all, and "auto" finds a kernel that does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import attention
from attention.conformance import outcome
from attention.core.modes import first_order, once
from attention.kernels import dispatch
from attention.kernels.kernel import obstacle
from tests.attention.conftest import every_mechanism, label, make, tiered

MODES = ("forward mode", "second derivatives", "torch.func", "vmap", "recomputation", "no gradient")
TANGENTS = (
    "softmax",
    "softpick",
    "sigmoid",
    "swat",
    "entmax15",
    "gaussian",
    "lssar",
    "simrf",
    "soft_lowrank",
)


class _Operators(TorchDispatchMode):
    """Names of the libraries whose operators are called."""

    def __init__(self):
        super().__init__()
        self.libraries = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.libraries.add(func.namespace)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", [tiered(mechanism) for mechanism in every_mechanism()])
def test_the_formula_serves_every_mode(mechanism):
    found = {mode: outcome(mechanism, "dense", mode) for mode in MODES}
    assert found == dict.fromkeys(MODES, "yes")


@pytest.mark.parametrize("mechanism", every_mechanism(), ids=label)
def test_the_formula_is_made_of_pytorchs_own_operators(mechanism):
    inputs = make(queries=11).to(torch.float32)
    params = mechanism.initial_values(*inputs.query.shape[2:])
    with _Operators() as seen:
        out = attention.attend(*inputs.all[:3], mechanism, kernel="dense", params=params)
        torch.autograd.grad(out, (inputs.query, inputs.key, inputs.value), inputs.grad_out)
    assert seen.libraries <= {"aten", "prim", "prims"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TANGENTS)
def test_auto_has_a_tangent(name, dtype):
    query, key, value = (x.detach() for x in make(queries=9).to(dtype).all[:3])
    tangent = torch.ones_like(query)

    def call(query, kernel="auto"):
        return attention.attend(query, key, value, name, kernel=kernel)

    _, found = torch.func.jvp(call, (query,), (tangent,))
    step = 1e-6
    ahead, behind = (
        attention.attend(query.double() + sign * step, key.double(), value.double(), name) for sign in (1, -1)
    )
    right = (ahead - behind) / (2 * step)
    assert right.abs().max() > 0.01
    assert torch.allclose(found.double(), right, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        _, without = torch.func.jvp(call, (query,), (tangent,))
    assert torch.allclose(without, found)


@pytest.mark.parametrize("kernel", ["cpu", "tiled", "sdpa"])
def test_a_kernel_without_the_mode_says_so_and_names_one_that_has_it(kernel):
    inputs = make(queries=5).to(torch.float32)
    leaves = inputs.all[:3]

    def call(*tensors):
        return attention.attend(*tensors, "softmax", kernel=kernel)

    if obstacle(dispatch.KERNELS[kernel], attention.core.inputs.example(attention.get("softmax"))):
        pytest.skip("this machine has no such kernel")
    with pytest.raises(attention.AttentionError, match=r"forward mode .*use .*dense"):
        torch.func.jvp(lambda query: call(query, *leaves[1:]), leaves[:1], leaves[:1])
    (first,) = torch.autograd.grad(call(*leaves).square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(
        attention.AttentionError, match=f"'{kernel}' has no second derivative; use kernel='dense'"
    ):
        first.sum().backward()


@pytest.mark.slow
def test_a_compiled_jvp_is_right_or_refused():
    query, key, value = (x.detach() for x in make(queries=5).to(torch.float32).all[:3])

    def tangent(query):
        call = lambda query: attention.attend(query, key, value, "softpick")  # noqa: E731
        return torch.func.jvp(call, (query,), (torch.ones_like(query),))[1]

    torch._dynamo.reset()
    try:
        found = torch.compile(tangent, backend="aot_eager")(query)
    finally:
        torch._dynamo.reset()
    assert torch.allclose(found, tangent(query), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_in_every_mode(dtype):
    query, key = (x.detach() for x in make(queries=7).to(dtype).all[:2])
    tangent = torch.ones_like(query)
    _, found = torch.func.jvp(lambda query: attention.entropy(query, key), (query,), (tangent,))
    leaf = query.clone().requires_grad_()
    grad_out = torch.linspace(-1, 1, found.numel(), dtype=dtype).view_as(found)
    (gradient,) = torch.autograd.grad(attention.entropy(leaf, key), leaf, grad_out)
    assert torch.allclose((found * grad_out).sum(), (gradient * tangent).sum(), rtol=1e-4, atol=1e-5)
    mapped = torch.vmap(attention.entropy)(query[None], key[None])[0]
    assert torch.allclose(attention.entropy(query, key), mapped, atol=1e-5)


def test_entropy_by_the_formula_is_that_of_its_weights():
    query, key = (x.detach() for x in make(queries=7).all[:2])
    by_transform = torch.vmap(attention.entropy)(query[None], key[None])[0]
    share = attention.weights(query, key, "softmax", kernel="dense")
    assert torch.allclose(by_transform, torch.special.entr(share).sum(-1).transpose(1, 2))


def test_what_has_no_derivative_is_refused_within_a_transform():
    inputs = make(queries=5)
    query, key, value = (x.detach() for x in inputs.all[:3])
    with pytest.raises(attention.AttentionError, match="row statistics have no derivative"):
        torch.func.jvp(lambda query: attention.row_stats(query, key, "softmax").mass, (query,), (query,))
    state = attention.RecurrentState()
    with pytest.raises(attention.AttentionError, match="a recurrent state carries no gradient"):
        torch.func.jvp(lambda key: attention.attend(query, key, value, "simrf", state=state), (key,), (key,))


def test_a_guard_lets_one_derivative_through():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(x):
        (through,) = first_order("kernel 'toy'", x)
        return through.sin()

    assert torch.autograd.gradcheck(call, x)
    (first,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
    assert torch.allclose(first, x.cos())
    with pytest.raises(attention.AttentionError, match="kernel 'toy' has no second derivative"):
        torch.autograd.grad(first.sum(), x)


def test_a_backward_of_one_loss_refuses_several():
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once("kernel 'toy'", batched=False)
        def backward(ctx, grad):
            return (grad * ctx.saved_tensors[0].cos(),)

    x = torch.randn(3, requires_grad=True)
    with pytest.raises(attention.AttentionError, match="one loss at a time"):
        torch.autograd.grad(Sine.apply(x), x, torch.ones(2, 3), is_grads_batched=True)


@pytest.mark.parametrize("kernel", ["tiled", "cpu"])
@pytest.mark.parametrize("name", ["softmax", "softpick", "lssar"])
def test_a_backward_pass_within_autocast_is_that_without(name, kernel):
    inputs = make(queries=70).to(torch.float32)

    def gradients(within: bool) -> tuple[torch.Tensor, ...]:
        out = attention.attend(inputs.query, inputs.key, inputs.value, name, kernel=kernel)
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            return torch.autograd.grad(out, (inputs.query, inputs.key, inputs.value), inputs.grad_out)

    for within, without in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(within, without)
