import contextlib

import pytest
import torch

import attention
from attention.conformance.inputs import takes_windows
from models import KVCache, ModelError, trace


@pytest.mark.parametrize("mechanism", attention.names())
def test_a_call_has_all_that_its_output_came_from(build, tokens, mechanism):
    window = "none*1,7*1" if takes_windows(attention.get(mechanism)) else None
    model = build(attention=mechanism, window=window, qk_norm=True)
    documents = torch.tensor([[0] * 15 + [1] * 20 + [-1] * 5] * 2)
    calls = []
    with torch.no_grad(), trace(model, attention=calls.append):
        model(tokens, documents=documents)
    assert [call.layer for call in calls] == [0, 1]
    for call in calls:
        assert call.query.shape == call.output.shape == (2, 40, 4, 8)
        assert call.key.shape == call.value.shape == (2, 40, 2, 8)
        weights = attention.weights(call.query, call.key, call.mechanism, **call.spec.options)
        value = call.value.repeat_interleave(2, dim=2)
        mixed = torch.einsum("bhts,bshd->bthd", weights.to(value.dtype), value)
        torch.testing.assert_close(mixed, call.output, rtol=0, atol=1e-9)


def test_row_stats_take_a_call(build, tokens):
    def check(call):
        stats = attention.row_stats(call.query, call.key, call.mechanism, **call.spec.options)
        torch.testing.assert_close(stats.mass, torch.ones(2, 4, 40))

    with torch.no_grad(), trace(build(), attention=check):
        build()(tokens)


def test_hidden_states_come_in_order_from_the_embeddings_on(build, tokens):
    model = build()
    seen = {}
    with torch.no_grad(), trace(model, hidden=lambda layer, x: seen.update({layer: x})):
        logits = model(tokens)
    assert list(seen) == [-1, 0, 1]
    assert torch.equal(seen[-1], model.embedding(tokens))
    assert torch.equal(model.logits(model.norm(seen[1])), logits)


def test_a_cached_call_shows_all_keys(build, tokens):
    model = build()
    cache, calls = KVCache(model.plan), []
    with torch.no_grad(), trace(model, attention=calls.append):
        model(tokens[:, :30], cache=cache)
        model(tokens[:, 30:], cache=cache)
    lengths = [(call.query.shape[1], call.key.shape[1]) for call in calls]
    assert lengths == [(30, 30), (30, 30), (10, 40), (10, 40)]


def test_a_trace_changes_nothing_and_ends_with_its_block(build, tokens):
    model = build()
    calls = []
    with torch.no_grad():
        before = model(tokens)
        with trace(model, attention=calls.append, hidden=lambda *_: None):
            assert torch.equal(model(tokens), before)
        with contextlib.suppress(KeyError), trace(model, attention=calls.append):
            raise KeyError
        model(tokens)
    assert len(calls) == 2
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_keeps_a_state_is_not_traced_with_a_cache(build, tokens):
    model = build(attention="simrf")
    with (
        torch.no_grad(),
        trace(model, attention=lambda call: None),
        pytest.raises(ModelError, match=r"layer 0 \(simrf\) keeps a state instead of its keys"),
    ):
        model(tokens, cache=KVCache(model.plan))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_a_wrapped_model_is_refused(build):
    model = build()
    with pytest.raises(ModelError, match="unwrapped and not compiled"), trace(torch.nn.Sequential(model)):
        pass
    model.compile()
    with pytest.raises(ModelError, match="unwrapped and not compiled"), trace(model):
        pass
