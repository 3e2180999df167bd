"""What cannot be served is refused by its name."""

import pytest
import torch
import transformers
from torch import nn

from attention import AttentionError, get
from attention.transformers import seams
from attention.transformers.calls import read
from attention.transformers.families import tiny
from attention.transformers.masks import documents_of, intervals_of

TOKENS = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
HEADS = torch.randn(2, 4, 12, 16)


class Layer(nn.Module):
    """Stands for a layer that asks."""


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("position_bias", torch.zeros(1), r"Layer adds a position bias to scores \(position_bias\)"),
        ("output_attentions", True, "attention.weights has them"),
        ("indices", torch.zeros(1), "selects keys"),
        ("block_indices", torch.zeros(1), "selects blocks of keys"),
        ("cache", object(), "has a paged cache"),
        ("sinks", torch.zeros(4), "sinks of a kind of its own"),
        ("something_new", 3, r"asks for what is not known here \(something_new\)"),
        ("dropout", 0.1, r"drops 0\.1 of its weights"),
        (
            "s_aux",
            torch.zeros(4),
            r"learned sinks \(s_aux\), for which zoo:softpick has no place; take 'zoo:auto'",
        ),
        ("sliding_window", 5, "window of 5 keys, and passes no mask"),
    ],
)
def test_requests_that_no_mechanism_serves(option, value, words):
    with pytest.raises(AttentionError, match=words):
        read(get("softpick"), Layer(), HEADS, HEADS, HEADS, None, **{option: value})


def test_requests_that_say_nothing_are_no_obstacle():
    read(get("softpick"), Layer(), HEADS, HEADS, HEADS, None, position_bias=None, output_attentions=False)


def test_dropout_is_refused_in_training_alone():
    model = tiny("Llama", "zoo:softpick", attention_dropout=0.1)
    model(TOKENS)
    with pytest.raises(AttentionError, match=r"LlamaAttention drops 0\.1 of its weights in training"):
        model.train()(TOKENS)


def test_a_mask_with_holes():
    holes = torch.ones_like(TOKENS)
    holes[0, 5] = 0
    with pytest.raises(AttentionError, match="hides keys amid visible ones"):
        tiny("Llama", "zoo:auto")(TOKENS, attention_mask=holes)


def test_a_mask_that_the_caller_made_is_read():
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    near = causal & ~torch.ones(12, 12, dtype=torch.bool).tril(-4)
    for visible in (causal, near):
        model, eager = tiny("Llama", "zoo:auto"), tiny("Llama")
        added = torch.zeros(1, 1, 12, 12).masked_fill(~visible, torch.finfo(torch.float32).min)
        with torch.no_grad():
            expected = eager(TOKENS, attention_mask=added).logits
            for mask in (visible[None, None], added, added.masked_fill(~visible, -torch.inf)):
                assert torch.allclose(model(TOKENS, attention_mask=mask).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, 1, 12, 12) - 1.0, "adds biases to scores"),
        (torch.zeros(1, 4, 12, 12), "differs between heads"),
        (torch.zeros(1, 1, 12, 12, dtype=torch.int32), "not understood"),
        (torch.zeros(1, 1, 12, 30), "not understood for 12 queries and 12 keys"),
        (torch.tensor([[[[0, 40, i] for i in range(12)]]]), "speaks of 40 keys, the layer has 12"),
    ],
)
def test_masks_that_are_not_understood(mask, words):
    with pytest.raises(AttentionError, match=words):
        intervals_of(mask, 12, 12)


def test_no_mask_for_a_cache():
    with pytest.raises(AttentionError, match="passes no mask for 3 queries and 12 keys"):
        read(None, Layer(), HEADS[:, :, :3], HEADS, HEADS, None)
    read(None, Layer(), HEADS[:, :, :1], HEADS, HEADS, None)


def test_a_state_takes_documents_alone():
    with pytest.raises(AttentionError, match="simrf keeps a state of all earlier keys"):
        tiny("Mistral", "zoo:simrf")(TOKENS)
    window = torch.tensor([[[max(0, i - 2), i + 1, i] for i in range(6)]])
    assert documents_of(window, 6) is None
    padded = torch.tensor([[[0, 0, 0], [0, 0, 1], [2, 3, 2], [2, 4, 3], [4, 5, 4]]])
    assert documents_of(padded, 5).tolist() == [[-1, -1, 2, 2, 4]]


def test_capped_scores_where_the_mechanism_makes_its_own():
    with pytest.raises(AttentionError, match=r"gaussian makes scores of its own .* no softcap"):
        tiny("Gemma 2", "zoo:gaussian")(TOKENS)


def test_a_scale_that_a_mechanism_fixes():
    with pytest.raises(AttentionError, match="gaussian fixes the scale"):
        tiny("Granite", "zoo:gaussian")(TOKENS)


def test_models_that_do_not_let_their_attention_be_replaced():
    config = transformers.BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(AttentionError, match=r"Bloom.* does not let its attention be replaced"):
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation="zoo:auto")
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(AttentionError, match=r"Bloom.* does not let its attention be replaced"):
        model.set_attn_implementation("zoo:softpick")  # transformers alone would warn, and go on with softmax


def test_models_without_attention():
    config = transformers.MambaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4, bos_token_id=1, eos_token_id=2
    )
    with pytest.raises(AttentionError, match="has no layer whose attention can be zoo:softpick"):
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation="zoo:softpick")
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(AttentionError, match=r"(no layer whose|does not let its) attention"):
        model.set_attn_implementation("zoo:softpick")


def test_a_transformers_whose_masks_are_made_otherwise(monkeypatch):
    monkeypatch.setattr(seams, "sdpa_mask", lambda batch_size, cache_position, kv_length: None)
    with pytest.raises(AttentionError, match=r"not known here; pip install 'transformers>=5\.23'"):
        seams.register()


@pytest.mark.parametrize("name", ["zoo:softpik", "zoo:lssar?powr=3", "zoo:"])
def test_names_that_mean_nothing(name):
    model = tiny("Llama")
    with pytest.raises(AttentionError):
        model.set_attn_implementation(name)
    assert model.config._attn_implementation == "eager"
