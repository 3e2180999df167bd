"""Layers that keep a state: a text in parts, in memory that does not grow with it."""

import pytest
import torch

import attention
from models import KVCache, ModelError, generate, left_pad

pytestmark = pytest.mark.slow

LAYERS = {
    "blocks": ("soft_lowrank", {"chunk": 4, "landmarks": 2}),
    "last blocks": ("soft_lowrank", {"chunk": 4, "landmarks": 2, "summaries": 2, "inverse": "newton"}),
    "global": ("soft_lowrank", {"far": "global", "chunk": 4, "landmarks": 3}),
    "streaming": ("soft_lowrank", {"far": "streaming", "chunk": 4, "landmarks": 2}),
    "simrf": ("simrf", {"chunk": 4, "features": 12}),
}
DOCUMENTS = [[-1] * 5 + [0] * 12 + [1] * 23, [0] * 20 + [1] * 1 + [2] * 19]

layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


def _model(build, layer, pattern="{}", **changes):
    name, options = layer
    return build(attention=pattern.format(name), attention_options={name: options}, **changes)


@layers
@pytest.mark.parametrize("pattern", ["{}", "softmax*1,{}*1"])
@pytest.mark.parametrize("chunks", [[1] * 40, [33] + [1] * 7, [3] * 13 + [1], [19, 2, 19], [40]], ids=str)
def test_a_text_in_parts_gives_the_logits_of_the_whole(build, tokens, layer, pattern, chunks):
    model = _model(build, layer, pattern)
    cache = KVCache(model.plan)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in tokens.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-9)


@layers
@pytest.mark.parametrize("size", [1, 3, 17])
def test_padding_and_documents_pass_through_the_cache(build, tokens, layer, size):
    model = _model(build, layer, "{}*1,softmax*1")
    documents = torch.tensor(DOCUMENTS)
    cache = KVCache(model.plan)
    with torch.no_grad():
        whole = model(tokens, documents=documents)
        parts = [
            model(part, documents=ids, cache=cache)
            for part, ids in zip(tokens.split(size, 1), documents.split(size, 1), strict=True)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)


@layers
def test_a_batch_of_prompts_is_continued_as_each_alone(build, layer):
    model = _model(
        build, layer, position="none"
    )  # padding moves rotary positions, and with them random features
    prompts = [[5, 9, 2, 7, 1, 3, 8], [4, 4], [6, 1, 2]]
    tokens, documents = left_pad(prompts)
    together = generate(model, tokens, 12, temperature=0, documents=documents)
    for row, prompt in zip(together.tolist(), prompts, strict=True):
        alone = generate(model, torch.tensor([prompt]), 12, temperature=0)[0].tolist()
        assert row[-12:] == alone[-12:]
    longest = torch.tensor([prompts[0]])
    for _ in range(12):
        following = model(longest)[:, -1].argmax(-1, keepdim=True)
        longest = torch.cat([longest, following], 1)
    assert together[0].tolist() == longest[0].tolist()


@pytest.mark.parametrize(("name", "grows"), [("global", 0), ("streaming", 0), ("simrf", 0), ("blocks", 2)])
def test_memory_does_not_grow_with_the_text(build, name, grows):
    """With blocks, by a pair of landmarks and coefficients whenever the text doubles."""
    model = _model(build, LAYERS[name], max_length=4096)
    cache, sizes = KVCache(model.plan), {}
    with torch.no_grad():
        for length in (1, 64, 64, 128, 256):
            model(torch.zeros(1, length, dtype=torch.long), cache=cache)
            sizes[cache.length] = cache.nbytes
    level = 2 * 4 * 2 * (8 + 9) * 8  # layers, heads, landmarks, channels of both, bytes
    assert sizes[257] - sizes[129] == sizes[513] - sizes[257] == (level if grows else 0)


def test_what_a_state_cannot_serve_is_refused(build, tokens):
    with pytest.raises(
        attention.AttentionError, match="simrf keeps a state of all earlier keys; it takes no window"
    ):
        build(attention="simrf", window="7")
    model = build(attention="simrf")
    with pytest.raises(attention.AttentionError, match=r"no gradient; call attend under torch.no_grad"):
        model(tokens, cache=KVCache(model.plan))
    with torch.no_grad():
        cache = KVCache(model.plan)
        model(tokens, cache=cache)
        with pytest.raises(ModelError, match="holds a batch of 2, got one of 1"):
            model(tokens[:1], cache=cache)
        with pytest.raises(ModelError, match=r"documents for every call on one cache, or for none"):
            model(tokens, documents=torch.zeros_like(tokens), cache=cache)
