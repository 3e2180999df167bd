"""Value embeddings and gains of queries, with any mechanism; a model with all of `modern`."""

import pytest
import torch

import attention
from attention.forms.chunked import Chunked
from models import KVCache, ModelConfig, ModelError, generate, resolve, trace

MODERN = {
    "norm": "single_scale",
    "qk_norm": True,
    "qk_gain": 1.5,
    "mlp": "relu_squared",
    "value_embeddings": "alternate",
    "logit_softcap": 3.0,
    "tie_embeddings": False,
}


def traced(model, tokens):
    """Per layer: the normalised input of attention, and its call."""
    inputs, calls = [], []
    for layer in model.layers:
        layer.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad(), trace(model, attention=calls.append):
        model(tokens)
    return list(zip(inputs, calls, strict=True))


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("which", ["alternate", "every"])
def test_a_token_adds_its_embedding_to_its_value_by_a_gate(build, tokens, which, differential):
    model = build(n_layer=3, value_embeddings=which, differential=differential)
    width, heads = (16, 1) if differential else (8, 2)
    for depth, (x, call) in enumerate(traced(model, tokens)):
        part = model.layers[depth].attention
        expected = (x @ part.value.weight.T).view(2, 40, heads, width)
        if which == "every" or depth in (0, 2):
            own = part.value_embedding
            gate = 2 / (1 + torch.exp(-(x @ own.gate.weight.T)))
            expected = expected + gate[..., None] * own.embedding.weight[tokens].view(2, 40, heads, width)
        else:
            assert part.value_embedding is None
        copies = 2 if differential else 1
        torch.testing.assert_close(call.value, expected.repeat_interleave(copies, 2), rtol=1e-12, atol=1e-13)


def test_the_last_layer_of_an_even_number_has_one_too(build):
    model = build(n_layer=4, value_embeddings="alternate")
    assert [layer.attention.value_embedding is not None for layer in model.layers] == [False, True] * 2


def test_each_head_has_a_gain_of_its_normalised_queries(build, tokens):
    model = build(position="none", qk_norm=True, qk_gain=1.5)
    for layer in model.layers:
        assert torch.equal(layer.attention.query_gain, torch.full((4, 1), 1.5, dtype=torch.float64))
        torch.nn.init.normal_(layer.attention.query_gain.data, mean=1.0)
    for layer, (x, call) in zip(model.layers, traced(model, tokens), strict=True):
        query = (x @ layer.attention.query.weight.T).view(2, 40, 4, 8)
        unit = query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(call.query, layer.attention.query_gain * unit, rtol=1e-12, atol=0)


def test_logits_stay_within_the_cap_and_are_its_formula(build, tokens):
    free, capped = build(), build(logit_softcap=0.7)
    with torch.no_grad():
        expected = 0.7 * torch.tanh(free(tokens) / 0.7)
        torch.testing.assert_close(capped(tokens), expected, rtol=1e-12, atol=1e-15)
        losses = torch.nn.functional.cross_entropy(expected.mT.float(), tokens, reduction="none")
        torch.testing.assert_close(capped(tokens, targets=tokens), losses)
    assert expected.abs().max() > 0.6, "the cap is felt"


@pytest.mark.parametrize("mechanism", ["softmax*1,swat*1", "lssar*1,gaussian*1", "softpick"])
def test_a_modern_model_in_parts_gives_the_logits_of_the_whole(build, tokens, mechanism):
    model = build(attention=mechanism, window="none*1,7*1", kernel="dense", **MODERN)
    documents = torch.tensor([[-1] * 5 + [0] * 12 + [1] * 23, [0] * 20 + [1] * 1 + [2] * 19])
    chunks, cache = [19, 2, *[1] * 6, 13], KVCache(model.plan)
    with torch.no_grad():
        parts = [
            model(part, documents=ids, cache=cache)
            for part, ids in zip(tokens.split(chunks, 1), documents.split(chunks, 1), strict=True)
        ]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens, documents=documents), rtol=0, atol=1e-9)


def test_a_modern_model_with_a_state_in_parts_gives_the_logits_of_the_whole(build, tokens):
    chunked = next(name for name in attention.names() if attention.get(name).form is Chunked)
    model = build(attention=chunked, position="none", **MODERN)
    cache = KVCache(model.plan)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in tokens.split([19, 2, 1, 1, 17], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=0, atol=1e-9)


def test_a_modern_model_writes_what_its_full_forward_finds_most_likely(build, tokens):
    model = build(**MODERN)
    text = generate(model, tokens, 10, temperature=0)
    with torch.no_grad():
        assert torch.equal(text[:, 40:], model(text)[:, 39:-1].argmax(-1))


def test_every_parameter_of_a_modern_model_learns(build, tokens):
    model = build(**MODERN)
    model(tokens, targets=tokens).sum().backward()
    assert not [name for name, value in model.named_parameters() if not value.grad.abs().sum() > 0]


def test_autocast_keeps_values_in_the_dtype_of_keys_and_the_stream_in_float32(build, tokens):
    model = build(**MODERN).float()
    exact = model(tokens, targets=tokens)
    dtypes = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        trace(
            model,
            attention=lambda call: dtypes.append({call.query.dtype, call.key.dtype, call.value.dtype}),
            hidden=lambda layer, x: dtypes.append({x.dtype}),
        ),
    ):
        losses = model(tokens, targets=tokens)
    assert dtypes == [{torch.float32}, *[{torch.bfloat16}, {torch.float32}] * 2]
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.3)


def test_parameters_and_operations_are_counted(build):
    plain, embedded = build(), build(value_embeddings="every")
    # Per layer: a table of 64 tokens as wide as two value heads, and a gate of 32 x 2, which alone multiplies.
    assert embedded.parameter_count() - plain.parameter_count() == 2 * (64 * 16 + 32 * 2)
    assert embedded.flops_per_token(10) - plain.flops_per_token(10) == pytest.approx(6 * 2 * 32 * 2)
    gained = build(qk_norm=True, qk_gain=1.0).parameter_count() - build(qk_norm=True).parameter_count()
    assert gained == 2 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "unknown norm 'layer'"),
        ({"mlp": "relu_square"}, "unknown mlp 'relu_square'; did you mean 'relu_squared'"),
        ({"value_embeddings": "alternating"}, "'alternating'; did you mean 'alternate'"),
        ({"logit_softcap": 0.0}, "model.logit_softcap must be a positive number"),
        ({"qk_gain": -1.0, "qk_norm": True}, "model.qk_gain must be a positive number"),
        ({"qk_gain": 1.0}, "qk_gain is a factor of normalised queries; set qk_norm true"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    shape = {"vocab_size": 64, "n_layer": 2, "n_head": 4, "d_model": 32, "max_length": 64}
    with pytest.raises(ModelError, match=message) as caught:
        resolve(ModelConfig(**shape, **changes))
    assert "\n" not in str(caught.value)
