"""Mechanisms in models of transformers: caches, generation, training, compilation."""

import copy

import pytest
import torch
import transformers

import attention
from attention import AttentionError, get
from attention.transformers import LayerCall, implementation, observed
from attention.transformers.families import tiny
from attention.transformers.parity import logits
from attention.transformers.seams import attention_layers
from tests.attention.conftest import REPRESENTATIVES, label

TOKENS = torch.randint(3, 90, (2, 24), generator=torch.Generator().manual_seed(0))
LEFT = torch.ones_like(TOKENS)
LEFT[0, :7] = 0


def named(mechanism, *others):
    """All mechanisms in a run of everything, one of each form in a short one."""
    marks = [] if mechanism.name in REPRESENTATIVES else [pytest.mark.exhaustive]
    return pytest.param(mechanism, *others, marks=marks, id=label(mechanism))


EVERY = [named(get(name)) for name in attention.names()]


@pytest.mark.parametrize("mechanism", EVERY)
def test_padding_on_the_left_and_caches_change_nothing(mechanism):
    model = tiny("Llama", implementation(mechanism))
    with torch.no_grad():
        padded = model(TOKENS, attention_mask=LEFT, position_ids=(LEFT.cumsum(1) - 1).clamp(min=0)).logits
        alone = model(TOKENS[:1, 7:]).logits
    assert torch.isfinite(padded).all()
    assert torch.allclose(padded[:1, 7:], alone, atol=2e-5)
    for mask in ("causal", "left padding"):
        whole = logits(model, mask, "none")
        assert torch.allclose(logits(model, mask, "dynamic"), whole, atol=5e-5)
        if mechanism.name not in ("simrf", "soft_lowrank"):
            assert torch.allclose(logits(model, mask, "static"), whole, atol=5e-5)


@pytest.mark.parametrize("family", ["Mistral", "Gemma 2", "gpt-oss"])
def test_windows_are_those_of_the_model(family):
    name = "zoo:auto" if family == "gpt-oss" else "zoo:softpick"
    model = tiny(family, name)
    whole = logits(model, "causal", "none")
    for cache in ("dynamic", "static"):
        assert torch.allclose(logits(model, "causal", cache), whole, atol=5e-5)


def test_a_mechanism_computes_as_attend_does():
    calls: list[tuple[LayerCall, torch.Tensor]] = []
    model = tiny("Gemma 2", "zoo:softpick")
    with observed(lambda call, out: calls.append((call, out))), torch.no_grad():
        model(TOKENS, attention_mask=LEFT)
    assert [call.layer for call, _ in calls] == [0, 1]
    for call, out in calls:
        assert call.mechanism == get("softpick")
        assert call.spec.softcap == 4.0
        weight = attention.weights(call.query, call.key, call.mechanism, kernel="dense", **call.spec.options)
        expected = torch.einsum("bhts,bshd->bthd", weight, call.value.repeat_interleave(2, 2))
        assert torch.allclose(out, expected, atol=1e-5)


def test_an_observer_may_replace_an_output():
    model = tiny("Llama", "zoo:auto")
    before = logits(model, "causal", "none")
    with observed(lambda call, out: torch.zeros_like(out) if call.layer == 0 else None):
        assert not torch.equal(logits(model, "causal", "none"), before)
    assert torch.equal(logits(model, "causal", "none"), before)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "gpt-oss", "Mistral"])
def test_it_generates_what_eager_generates(family, cache):
    texts = []
    for name in ("eager", "zoo:auto"):
        model = tiny(family, name)
        options = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
        texts.append(
            model.generate(
                TOKENS, attention_mask=LEFT, max_new_tokens=12, do_sample=False, eos_token_id=None, **options
            )
        )
    assert torch.equal(*texts)


def test_beams_and_samples_are_generated():
    model = tiny("Llama", "zoo:softpick")
    for options in ({"num_beams": 3, "do_sample": False}, {"do_sample": True, "top_k": 5}):
        grown = model.generate(TOKENS, attention_mask=LEFT, max_new_tokens=5, **options)
        assert grown.shape[1] > TOKENS.shape[1]


def gradients(model, **options):
    """Of a loss that takes nothing from padding: what predicts the first real token is padding, too."""
    model.train()
    model.zero_grad()
    real = options["attention_mask"].bool()
    real[:, 1:] &= real[:, :-1].clone()
    labels = TOKENS.masked_fill(~real, -100)
    model(TOKENS, labels=labels, use_cache=False, **options).loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "gpt-oss"])
def test_gradients_are_those_of_eager(family):
    expected = gradients(tiny(family), attention_mask=LEFT)
    found = gradients(tiny(family, "zoo:auto"), attention_mask=LEFT)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        scale = max(1.0, gradient.abs().max().item())
        assert torch.allclose(found[name], gradient, atol=5e-5 * scale), name


@pytest.mark.parametrize("name", ["zoo:auto", "zoo:ssmax", "zoo:gumbel_softmax"])
def test_gradient_checkpointing_changes_nothing(name):
    found = []
    for checkpointing in (False, True):
        model = tiny("Llama", name)
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        found.append(gradients(model, attention_mask=LEFT))
    for key, gradient in found[0].items():
        assert torch.allclose(found[1][key], gradient, atol=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("Llama", "zoo:ssmax"), ("Gemma 2", "zoo:auto")])
def test_a_compiled_model_computes_the_same_in_one_graph(family, name):
    model = tiny(family, name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for mask in (None, LEFT):
            expected = model(TOKENS, attention_mask=mask, use_cache=False).logits
            found = compiled(TOKENS, attention_mask=mask, use_cache=False).logits
            assert torch.allclose(found, expected, atol=1e-5)
        holes = LEFT.clone()
        holes[1, 5] = 0
        with pytest.raises(RuntimeError, match="hides keys amid visible ones"):
            compiled(TOKENS, attention_mask=holes, use_cache=False)
    torch._dynamo.reset()


def test_autocast_computes_in_half_as_eager_does():
    outs = []
    for name in ("eager", "zoo:auto"):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            outs.append(tiny("Llama", name)(TOKENS).logits.float())
    exact = tiny("Llama")(TOKENS).logits
    error = [(out - exact).abs().max() for out in outs]
    assert error[1] <= 2 * error[0]


def test_a_copy_of_a_model_is_its_own():
    model = tiny("Llama", "zoo:ssmax")
    copied = copy.deepcopy(model)
    for layer in attention_layers(copied):
        layer.zoo.learned["length_scale"].data.fill_(3.0)
    assert not torch.equal(logits(copied, "causal", "none"), logits(model, "causal", "none"))
    assert attention_layers(model)[0].zoo.learned["length_scale"][0] != 3.0


def test_noise_and_schedules_follow_training():
    model = tiny("Llama", "zoo:gumbel_softmax")
    quiet = logits(model, "causal", "none")
    assert torch.allclose(quiet, logits(tiny("Llama", "zoo:softmax"), "causal", "none"), atol=1e-5)
    model.train()
    torch.manual_seed(1)
    first = logits(model, "causal", "none")
    assert not torch.allclose(first, quiet, atol=1e-2)
    torch.manual_seed(1)
    assert torch.equal(logits(model, "causal", "none"), first)
    model = tiny("Llama", "zoo:annealed_softmax").train()
    with pytest.raises(AttentionError, match="set_progress"):
        model(TOKENS)
    attention.set_progress(model, 0.5)
    model(TOKENS)


def test_two_mechanisms_may_run_side_by_side():
    first, second = tiny("Llama", "zoo:softpick"), tiny("Llama", "zoo:lssar?power=3")
    alone = logits(first, "causal", "none")
    logits(second, "causal", "none")
    assert torch.equal(logits(first, "causal", "none"), alone)
    assert isinstance(first, transformers.PreTrainedModel)
