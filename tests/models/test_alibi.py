"""ALiBi in a model: positions are slopes of the scores, and nothing else."""

import pytest
import torch

from attention import AttentionError
from models import KVCache, ModelError, trace


def test_a_model_with_alibi_sees_distance(build, tokens):
    model, blind = build(position="alibi", n_layer=1), build(position="none", n_layer=1)
    blind.load_state_dict(model.state_dict())
    assert model.rope is None
    swapped, kept = tokens[:, [1, 0, 2]], tokens[:, [0, 1, 2]]
    with torch.no_grad():
        torch.testing.assert_close(blind(swapped)[:, 2], blind(kept)[:, 2])
        assert not torch.allclose(model(swapped)[:, 2], model(kept)[:, 2])


@pytest.mark.parametrize("window", [None, "5"])
def test_a_cache_changes_nothing(build, tokens, window):
    model = build(position="alibi", attention="softpick*1,entmax15*1", window=window)
    with torch.no_grad():
        whole = model(tokens)
        cache = KVCache(model.plan)
        parts = [model(part, cache=cache) for part in tokens.split([7, 1, 20, 12], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_what_is_traced_says_so(build, tokens):
    model = build(position="alibi")
    calls = []
    with torch.no_grad(), trace(model, attention=calls.append):
        model(tokens)
    assert len(calls) == 2
    for call in calls:
        assert call.spec.slopes is not None
        assert call.spec.slopes.tolist() == [-0.25, -0.0625, -0.015625, -0.00390625]


def test_mistakes(build):
    with pytest.raises(AttentionError, match="simrf takes no slopes"):
        build(position="alibi", attention="simrf")
    with pytest.raises(ModelError, match="sdpa does not run softmax: it takes no biases of scores"):
        build(position="alibi", kernel="sdpa")
