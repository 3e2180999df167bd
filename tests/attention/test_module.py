"""A mechanism as a module: what it learns is trained, saved and copied; noise and schedules follow training."""

import copy

import pytest
import torch

import attention
from attention import Attention, AttentionError, Phase, attend, get, set_progress
from tests.attention.conftest import label

QUERY, KEY, VALUE = (torch.randn(2, 9, heads, 16) for heads in (4, 2, 2))
LEARNED = ["ssmax", "softmax_sink", "scalable_softpick", "gaussian", "weighted_softpick"]


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """One step of gradient descent on everything."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(QUERY, KEY, VALUE).square().sum().backward()
    optimizer.step()
    return module


@pytest.mark.parametrize("mechanism", [get(name) for name in attention.names()], ids=label)
def test_it_owns_what_the_mechanism_learns_and_computes_as_attend(mechanism):
    module = Attention(mechanism, 4, 16).eval()
    assert module.learned.keys() == mechanism.initial_values(4, 16).keys()
    expected = attend(QUERY, KEY, VALUE, mechanism)
    assert torch.equal(module(QUERY, KEY, VALUE), expected)


@pytest.mark.parametrize("name", LEARNED)
def test_what_it_learns_is_trained_saved_and_copied(name):
    module = trained(Attention(name, 4, 16))
    out = module(QUERY, KEY, VALUE)
    moved = [
        not torch.equal(module.learned[key], value) for key, value in get(name).initial_values(4, 16).items()
    ]
    assert any(moved)
    loaded = Attention(name, 4, 16)
    loaded.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    for other in (loaded, copied):
        assert torch.equal(other(QUERY, KEY, VALUE), out)
    trained(copied)
    assert torch.equal(module(QUERY, KEY, VALUE), out)
    module.reset_parameters()
    assert torch.equal(module(QUERY, KEY, VALUE), attend(QUERY, KEY, VALUE, name))


@pytest.mark.parametrize("name", LEARNED)
def test_attend_refuses_to_leave_what_is_learned_at_its_start(name):
    query = QUERY.clone().requires_grad_()
    with pytest.raises(AttentionError, match=r"learns .*use attention\.Attention\('"):
        attend(query, KEY, VALUE, name)
    with pytest.raises(AttentionError, match="learns"):
        torch.func.grad(lambda x: attend(x, KEY, VALUE, name).sum())(QUERY)
    attend(QUERY, KEY, VALUE, name)
    with torch.no_grad():
        attend(query, KEY, VALUE, name)
    attend(query, KEY, VALUE, name, params=get(name).initial_values(4, 16)).sum().backward()


def test_noise_follows_the_generator_of_torch_and_ends_with_training():
    module = Attention("gumbel_softmax", 4, 16)
    torch.manual_seed(1)
    first, second = module(QUERY, KEY, VALUE), module(QUERY, KEY, VALUE)
    torch.manual_seed(1)
    assert torch.equal(module(QUERY, KEY, VALUE), first)
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(QUERY, KEY, VALUE), attend(QUERY, KEY, VALUE, "softmax"))


def test_checkpointing_meets_the_same_noise_twice():
    module = Attention("gumbel_softmax", 4, 16)
    gradients = []
    for checkpointed in (False, True):
        query = QUERY.clone().requires_grad_()
        torch.manual_seed(2)
        if checkpointed:
            out = torch.utils.checkpoint.checkpoint(module, query, KEY, VALUE, use_reentrant=False)
        else:
            out = module(query, KEY, VALUE)
        out.square().sum().backward()
        gradients.append(query.grad)
    assert torch.equal(*gradients)


def test_a_schedule_is_told_by_the_caller():
    model = torch.nn.ModuleList([Attention("annealed_softmax", 4, 16) for _ in range(2)])
    with pytest.raises(AttentionError, match=r"set_progress"):
        model[0](QUERY, KEY, VALUE)
    set_progress(model, 0.25)
    phase = Phase(training=True, progress=0.25)
    expected = attend(QUERY, KEY, VALUE, "annealed_softmax", phase=phase)
    assert torch.equal(model[1](QUERY, KEY, VALUE), expected)
    for wrong in (2, -0.1, "0.5", True, None):
        with pytest.raises(AttentionError, match="between 0 and 1"):
            set_progress(model, wrong)


def test_masks_scale_and_kernel_are_those_of_attend():
    module = Attention("softpick", 4, 16, window=3, scale=0.5, kernel="tiled")
    documents = torch.tensor([[0] * 5 + [1] * 4, [-1] * 2 + [0] * 7])
    expected = attend(QUERY, KEY, VALUE, "softpick", window=3, scale=0.5, kernel="tiled", documents=documents)
    assert torch.equal(module(QUERY, KEY, VALUE, documents), expected)
    assert "Softpick(" in repr(module)
    assert "window=3" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("softpik", 4, 16), {}, "softpick"),
        (("softpick", 0, 16), {}, "n_head must be"),
        (("softpick", 4, 1.5), {}, "head_dim must be"),
        (("softpick", 4, 16), {"window": 0}, "window must be"),
        (("softpick", 4, 16), {"causal": 1}, "causal must be"),
        (("softpick", 4, 16), {"scale": "1"}, "scale must be"),
    ],
)
def test_it_refuses_what_attend_refuses(arguments, options, words):
    with pytest.raises(AttentionError, match=words):
        Attention(*arguments, **options)
    with pytest.raises(AttentionError):
        Attention("ssmax", 8, 16)(QUERY, KEY, VALUE)


@pytest.mark.parametrize("name", ["ssmax", "gumbel_softmax"])
def test_it_compiles_into_one_graph(name):
    module = Attention(name, 4, 16)
    torch.manual_seed(3)
    expected = module(QUERY, KEY, VALUE)
    torch.manual_seed(3)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(QUERY, KEY, VALUE), expected, atol=1e-6)
    torch._dynamo.reset()
