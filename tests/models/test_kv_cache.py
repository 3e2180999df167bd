from collections.abc import Iterable

import pytest
import torch

import attention
from attention.conformance.inputs import takes_windows
from models import KVCache, ModelError
from models.cache import RollingBuffer
from tests.attention.conftest import REPRESENTATIVES

pytestmark = pytest.mark.slow

WINDOWED = [name for name in attention.names() if takes_windows(attention.get(name))]
PATTERNS = [*WINDOWED, "softmax*1,swat*1"]
CHUNKS = {
    "token by token": [1] * 40,
    "prefill and decode": [33] + [1] * 7,
    "chunks shorter than the window": [3] * 13 + [1],
    "chunks longer than the window": [19, 2, 19],
    "at once": [40],
}


def cases(names: Iterable[str], of_all: str) -> list:
    """Each pattern with each name; mechanisms that represent no form meet one name alone in `make test`."""
    return [
        pytest.param(
            pattern,
            name,
            marks=[]
            if pattern not in WINDOWED or pattern in REPRESENTATIVES or name == of_all
            else pytest.mark.exhaustive,
        )
        for pattern in PATTERNS
        for name in names
    ]


@pytest.mark.parametrize(("pattern", "chunks"), cases(CHUNKS, of_all="chunks shorter than the window"))
def test_a_text_in_parts_gives_the_logits_of_the_whole(build, tokens, pattern, chunks):
    chunks = CHUNKS[chunks]
    model = build(attention=pattern, window="none*1,7*1")
    cache = KVCache(model.plan)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in tokens.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-9)
    assert cache.length == 40


@pytest.mark.parametrize(("pattern", "window"), cases(["7", "1", "none*1,7*1"], of_all="none*1,7*1"))
def test_padding_and_documents_pass_through_the_cache(build, tokens, pattern, window):
    model = build(attention=pattern, window=window)
    documents = torch.tensor([[-1] * 5 + [0] * 12 + [1] * 23, [0] * 20 + [1] * 1 + [2] * 19])
    cache = KVCache(model.plan)
    with torch.no_grad():
        whole = model(tokens, documents=documents)
        parts = [
            model(part, documents=ids, cache=cache)
            for part, ids in zip(tokens.split(3, 1), documents.split(3, 1), strict=True)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)


def test_a_windowed_model_generates_in_constant_memory(build):
    windowed, full = build(window="8", max_length=4096), build(max_length=4096)
    caches = [KVCache(windowed.plan), KVCache(full.plan)]
    token = torch.zeros(1, 1, dtype=torch.long)
    sizes = []
    with torch.no_grad():
        for chunk in (1, 1, 300, 1, 700, 1):
            for model, cache in zip((windowed, full), caches, strict=True):
                model(token.expand(1, chunk), cache=cache)
            sizes.append([cache.nbytes for cache in caches])
    position = 2 * 2 * 2 * 8 * 8  # layers, key and value, heads, channels, bytes
    assert {windowed_size for windowed_size, _ in sizes} == {14 * position}
    assert sizes[-1][1] >= 1004 * position


@pytest.mark.parametrize("limit", [None, 0, 1, 5])
def test_a_rolling_buffer_is_the_end_of_what_it_was_given(limit):
    generator = torch.Generator().manual_seed(0)
    buffer, seen = RollingBuffer(limit, 4), torch.zeros(2, 0, 3)
    for length in torch.randint(0, 14, (200,), generator=generator).tolist():
        new = torch.randn(2, length, 3, generator=generator)
        kept = seen if limit is None else seen[:, max(0, seen.shape[1] - limit) :]
        assert torch.equal(buffer.extend(new), torch.cat([kept, new], 1))
        seen = torch.cat([seen, new], 1)


def test_the_keys_of_a_head_lie_one_behind_the_other():
    buffer = RollingBuffer(None, 4)
    kept = buffer.extend(torch.zeros(2, 5, 3, 4))
    assert all(kept[row, :, head].is_contiguous() for row in range(2) for head in range(3))
    buffer.reorder(torch.tensor([1, 0]))
    assert all(buffer.kept[row, :, head].is_contiguous() for row in range(2) for head in range(3))


def test_the_cache_refuses_what_it_cannot_serve(build, tokens):
    model = build()
    with pytest.raises(ModelError, match=r"no gradient; call the model under torch.no_grad"):
        model(tokens, cache=KVCache(model.plan))
    with torch.no_grad():
        cache = KVCache(model.plan)
        model(tokens, cache=cache)
        with pytest.raises(ModelError, match="holds a batch of 2, got one of 1"):
            model(tokens[:1], cache=cache)
        with pytest.raises(ModelError, match="documents for every call on one cache, or for none"):
            model(tokens, documents=torch.zeros_like(tokens), cache=cache)
        with pytest.raises(ModelError, match="513 positions exceed max_length 512"):
            model(torch.zeros(2, 473, dtype=torch.long), cache=cache)
        assert model(tokens[:, :1], cache=cache).shape == (2, 1, 64)


def test_a_cache_of_a_pass_that_did_not_end_is_refused(build, tokens):
    model = build()
    cache = KVCache(model.plan)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        model(tokens, cache=cache)
        hook = model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(tokens[:, :1], cache=cache)
        hook.remove()
        with pytest.raises(ModelError, match="did not end; begin a new cache"):
            model(tokens[:, :1], cache=cache)
