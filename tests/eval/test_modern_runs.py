"""Evaluation of runs whose block has all that the recipe `modern` and its alternatives give it."""

import pytest
import torch

from attention import weights
from eval.analyses import activations, sinks
from eval.quantization import cache
from eval.quantization.weights import linear_layers
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import cut
from models import AttentionCall
from tests.eval.conftest import RunMaker
from tests.eval.test_gptq import check_blocks

MODERN = {
    "norm": "single_scale",
    "qk_norm": True,
    "qk_gain": 1.5,
    "mlp": "relu_squared",
    "value_embeddings": "alternate",
    "logit_softcap": 3.0,
    "tie_embeddings": False,
}


@pytest.fixture
def modern(make_run: RunMaker) -> Subject:
    return open_subject(make_run("modern", **MODERN), batch_tokens=96)


def test_its_linear_layers_are_quantized_and_its_tables_are_not(modern: Subject) -> None:
    attention = {f"attention.{name}" for name in ("query", "key", "value", "output")}
    both = {f"{layer}.{name}" for layer in (0, 1) for name in attention | {"mlp.up", "mlp.down"}}
    assert set(linear_layers(modern.blocks)) == both | {"1.attention.value_embedding.gate"}


@pytest.mark.slow
def test_blocks_with_value_embeddings_see_what_quantized_blocks_give(modern: Subject) -> None:
    check_blocks(modern)


def test_likelihoods_are_those_of_capped_logits(modern: Subject) -> None:
    tokens = cut(modern, 24, 3).tokens
    logits = modern.logits(tokens[:, :-1])
    assert logits.abs().max() <= 3
    expected = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(modern.losses(tokens), expected)
    torch.testing.assert_close(modern.read_out(modern.states(tokens[:, :-1])), logits)


def test_what_is_traced_is_what_the_layers_attend_with(modern: Subject) -> None:
    calls: list[AttentionCall] = []
    tokens = cut(modern, 24, 2).tokens
    with modern.trace(attention=calls.append):
        modern.observe(tokens)
    for call in calls:
        mixed = torch.einsum(
            "bhts,bshd->bthd", weights(call.query, call.key, call.mechanism, **call.spec.options), call.value
        )
        torch.testing.assert_close(mixed, call.output, atol=1e-5, rtol=1e-4)


def test_analyses_measure_it(modern: Subject) -> None:
    stream = activations.run(modern, activations.Settings(length=24, sequences=2)).results
    assert (stream.sequences, len(stream.kurtosis.layers)) == (2, 2)
    found = sinks.run(modern, sinks.Settings(lengths=(24,), train_length=False, sequences=2)).results
    assert set(found.lengths) == {"24"}


def test_its_cache_is_quantized_with_the_embeddings_in_it(modern: Subject) -> None:
    tokens = cut(modern, 24, 2).tokens
    full = modern.logits(tokens)
    with modern.trace(attention=cache.QuantizedCache(4).attention):
        assert 1e-4 < float((modern.logits(tokens) - full).abs().mean()) < 0.5
    assert torch.equal(modern.logits(tokens), full)


def test_a_model_of_another_recipe_is_another_architecture(make_run: RunMaker) -> None:
    plain = open_subject(make_run("plain"))
    for key in ("norm", "mlp", "value_embeddings"):
        other = open_subject(make_run("other", **{key: MODERN[key]}))
        assert other.architecture != plain.architecture
