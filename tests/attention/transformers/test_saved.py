"""What a mechanism learns is a part of the model: trained, saved, opened again; and never opened as another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import attention
from attention.transformers.families import tiny
from attention.transformers.parity import logits
from attention.transformers.seams import attention_layers

ROOT = Path(__file__).parents[3]
TOKENS = torch.randint(3, 90, (2, 16), generator=torch.Generator().manual_seed(0))
LEARNED = ["ssmax", "softmax_sink", "scalable_softpick", "gaussian", "weighted_softpick"]


def trained(model):
    """A step of gradient descent on everything, so that nothing is at its start."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    model(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    return model.eval()


def learned(model):
    return {name: value for name, value in model.state_dict().items() if ".zoo." in name}


@pytest.mark.parametrize("name", LEARNED)
def test_learned_parameters_are_trained_saved_and_opened_again(name, tmp_path):
    model = tiny("Llama", f"zoo:{name}")
    before = {key: value.clone() for key, value in learned(model).items()}
    assert len(before) == 2
    trained(model)
    assert all(not torch.equal(value, before[key]) for key, value in learned(model).items())
    model.save_pretrained(tmp_path)
    for options in ({}, {"attn_implementation": f"zoo:{name}"}):
        opened = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
        assert opened.config._attn_implementation == f"zoo:{name}"
        assert torch.equal(logits(opened, "causal", "none"), logits(model, "causal", "none"))


def test_what_a_checkpoint_lacks_starts_at_the_mechanisms_own_values(tmp_path):
    tiny("Llama").save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="zoo:ssmax")
    expected = attention.get("ssmax").initial_values(4, 16)["length_scale"]
    values = list(learned(opened).values())
    assert len(values) == 2
    assert all(torch.equal(value, expected) for value in values)
    assert all(value.requires_grad for value in map(opened.get_parameter, learned(opened)))


def test_options_are_saved_with_the_name(tmp_path):
    model = tiny("Llama", "zoo:lssar?power=3")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attn_implementation"] == "zoo:lssar?power=3"
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert attention_layers(opened)[0].zoo.mechanism == attention.get("lssar", power=3)


def test_the_models_own_formula_is_saved_as_nothing_else(tmp_path):
    model = tiny("Llama", "zoo:softpick")
    model.set_attn_implementation("zoo:auto")
    model.save_pretrained(tmp_path)
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_a_mechanism_is_put_into_a_loaded_model_and_another_takes_its_place():
    model = tiny("Llama")
    model.set_attn_implementation("zoo:ssmax")
    assert len(learned(trained(model))) == 2
    kept = learned(model)
    model.set_attn_implementation("eager")
    model.set_attn_implementation("zoo:ssmax")
    assert learned(model).keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in learned(model).items())
    model.set_attn_implementation("zoo:softpick")
    assert not learned(model)


def test_sinks_of_the_model_are_the_sinks_of_softmax_sink():
    model = tiny("gpt-oss", "zoo:softmax_sink")
    assert not learned(model)
    assert torch.equal(logits(model, "causal", "none"), logits(tiny("gpt-oss", "zoo:auto"), "causal", "none"))


def test_half_types_hold_what_is_learned_in_half(tmp_path):
    tiny("Llama").save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="zoo:ssmax", dtype=torch.bfloat16
    )
    assert {value.dtype for value in learned(opened).values()} == {torch.bfloat16}
    assert torch.isfinite(logits(opened, "causal", "none")).all()


@pytest.mark.slow
def test_without_this_package_a_saved_mechanism_is_refused_not_replaced(tmp_path):
    tiny("Llama", "zoo:softpick").save_pretrained(tmp_path)
    script = f"""
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert 'attn_implementation="zoo:softpick"` is not supported' in done.stderr
    assert transformers.__version__


def test_a_module_made_before_the_mechanism_was_named_is_refused():
    model = tiny("Llama", "zoo:ssmax")
    for layer in attention_layers(model):
        del layer.zoo
    with pytest.raises(attention.AttentionError, match=r"holds nothing of ssmax.*set_attn_implementation"):
        model(TOKENS)
