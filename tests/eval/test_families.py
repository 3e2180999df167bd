"""Families of Hugging Face models: what a trace reports is what their eager attention computes, layer by layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention import AttentionError, weights
from eval.analyses import heatmaps, quantize, sinks
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.subjects.probe import probe
from models import AttentionCall, ModelError
from tests.eval.families import HYBRIDS, OWN, save, tiny
from tests.eval.measuring import measure, typed

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")

MIXERS = ("self_attn", "attn", "attention", "temporal_block")
"""Names of the attention in a block."""

GATED = {"qwen3_next", "afmoe"}
SINKS = {"gpt_oss", "granite_swa", "flint", "mimo_v2_flash"}
WINDOWS = {
    "mistral": [7, 7],
    "gemma3_text": [7, None],
    "cohere2": [7, None],
    "olmo3": [7, None],
    "gemma2": [7, None],
    "vaultgemma": [7, None],
    "gpt_oss": [7, None],
    "granite_swa": [None, 7],
    "mimo_v2_flash": [None, 7],
    "afmoe": [7, 7],
    "recurrent_gemma": [7],
}


def opened(family: str, tokenizer: Any, folder: Path, text: str, **changes: Any) -> tuple[Any, Subject]:
    """A model with eager attention, and the same as a subject."""
    model = tiny(family, **changes)
    model.set_attn_implementation("eager")
    path = save(model, tokenizer, folder / f"tiny-{family}")
    return model, open_subject(path, text=text, results=folder / "results")


def eager(model: Any, tokens: Tensor, layers: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the weights of some layers as their eager attention returns them."""
    modules = [
        next(m for name, m in model.named_modules() if name.endswith(tuple(f".{layer}.{x}" for x in MIXERS)))
        for layer in layers
    ]
    found: dict[nn.Module, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda module, inputs, output: found.update({module: output[1]}))
        for module in modules
    ]
    with torch.no_grad():
        logits = model(tokens, output_attentions=True).logits
    for handle in handles:
        handle.remove()
    return logits, [found[module] for module in modules]


@pytest.mark.parametrize("family", OWN)
def test_traced_attention_is_that_of_eager(
    family: str, tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    model, subject = opened(family, tokenizer, tmp_path, prose_file)
    layers = HYBRIDS.get(family, [0, 1])
    tokens = torch.tensor([subject.token_documents[0][:24], subject.token_documents[0][24:48]])
    logits, expected = eager(model, tokens, layers)
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        torch.testing.assert_close(subject.logits(tokens), logits, atol=1e-4, rtol=1e-3)
    assert [call.layer for call in calls] == layers == subject.coverage.layers
    assert [call.spec.window for call in calls] == WINDOWS.get(family, [None] * len(layers))
    assert (subject.coverage.followed_by == "output gate") is (family in GATED)
    for call, attention in zip(calls, expected, strict=True):
        weight = weights(call.query, call.key, call.mechanism, **call.spec.options)
        mass = weight.sum(-1, keepdim=True)
        if family == "granite_swa":  # returns weights before the factor that its sink amounts to
            attention = attention * mass
        torch.testing.assert_close(weight, attention, atol=1e-5, rtol=1e-3)
        assert bool((mass < 0.999).any()) is ("sink" in (call.spec.params or {}))
        grouped = call.value.repeat_interleave(call.query.shape[2] // call.value.shape[2], 2)
        mixed = torch.einsum("bhts,bshd->bthd", weight, grouped)
        torch.testing.assert_close(call.output, mixed, atol=1e-4, rtol=1e-3)
    assert any("sink" in (call.spec.params or {}) for call in calls) is (family in SINKS)


def test_a_hybrid_says_which_layers_it_shows(tokenizer: Any, prose_file: str, tmp_path: Path) -> None:
    _, subject = opened("qwen3_next", tokenizer, tmp_path, prose_file)
    assert subject.label == "qwen3_next softmax"
    settings = sinks.Settings(lengths=(16,), train_length=False, sequences=3)
    results = measure(sinks, subject, settings)["results"]
    assert results["coverage"] == {
        "layers": [1],
        "of": 2,
        "left_out": {"0": "linear_attention has no attention weights"},
        "followed_by": "output gate",
    }
    assert len(results["lengths"]["16"]["heads"]["mass"]) == 1
    shown = typed(sinks, results)
    assert sinks.row(shown)["layers"] == "1 of 2"
    said = [
        "layers 1 of 0-1 (not 0: linear_attention has no attention weights)",
        "weights are those before the output gate",
    ]
    assert sinks.notes(shown) == said
    maps = measure(heatmaps, subject, heatmaps.Settings(prompt="the queen speaks"))["results"]
    assert [layer["layer"] for layer in maps["layers"]] == [1]
    assert heatmaps.notes(typed(heatmaps, maps)) == said


def test_a_figure_has_a_place_for_each_layer_of_the_model(
    tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    from eval.display import Grid, Shown

    _, subject = opened("qwen3_next", tokenizer, tmp_path, prose_file)
    settings = sinks.Settings(lengths=(16,), train_length=False, sequences=3, thresholds=(0.3,))
    found = typed(sinks, measure(sinks, subject, settings)["results"])
    figures = sinks.figures([Shown("tiny", 0, "softmax", 64, found, {})])
    (grid,) = (figure for figure in figures if isinstance(figure, Grid))
    assert [layer[0] is None for layer in grid.grids[0][1]] == [True, False]
    assert "not 0: linear_attention" in figures[0].caption


@pytest.mark.parametrize("family", ["gpt_oss", "gemma2", "qwen3_next"])
def test_they_are_quantized_by_every_method_that_makes_sense(
    family: str, tokenizer: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject: Any
    _, subject = opened(family, tokenizer, tmp_path, str(corpus / "00.txt"))
    documents = [(corpus / f"{index:02}.txt").read_text() for index in (1, 2, 3)]
    monkeypatch.setattr(subject, "training_documents", lambda count: ("prose", documents))
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    settings = quantize.Settings(
        methods=("rtn", "gptq", "w8a8-dynamic", "w8a8-static", "cache", "probabilities", "search"),
        bits=(8, 2),
        length=24,
        sequences=2,
        calibration=2,
        group=16,
        generations=2,
        offspring=2,
    )
    results = measure(quantize, subject, settings)["results"]
    for method in ("bits", "gptq"):
        fewer, more = (results[method][bits]["delta_loss"] for bits in ("2", "8"))
        assert abs(fewer) > abs(more), method
    assert all(results["cache"][bits]["delta_loss"] for bits in ("8", "4"))
    after = subject.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    notes = quantize.notes(typed(quantize, results))
    assert ("GptOssExperts" in str(notes)) is (family == "gpt_oss")
    assert ("not 0: linear_attention" in str(notes)) is (family == "qwen3_next")


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("bloom", "does not let its attention be replaced"),
        ("diffllama", "DiffLlamaAttention attends more than once in layer 0"),
        ("doge", "does not work while its attention is traced"),
        ("mamba", "has no layer whose attention can be zoo:auto"),
    ],
)
def test_what_cannot_be_traced_says_so_in_one_line(
    family: str, reason: str, tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    changes = {"keep_window_size": 8} if family == "doge" else {}
    _, subject = opened(family, tokenizer, tmp_path, prose_file, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        measure(sinks, subject, sinks.Settings(lengths=(16,), sequences=2))
    assert "\n" not in str(caught.value)
    assert subject.label == f"{family} attention"


@pytest.mark.parametrize("mechanism", ["softpick", "lssar?power=3", "ssmax"])
def test_a_model_that_runs_a_mechanism_of_the_zoo_is_traced_as_that(
    mechanism: str, tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    folder = save(tiny("llama"), tokenizer, tmp_path / "tiny")
    subject = open_subject(folder, text=prose_file, attention=f"zoo:{mechanism}")
    plain = open_subject(folder, text=prose_file)
    name = mechanism.partition("?")[0]
    assert (subject.label, plain.label) == (f"llama {name}", "llama softmax")
    assert subject.architecture != plain.architecture
    assert subject.results == folder / f"eval-{mechanism.replace('?', '-').replace('=', '-')}"
    tokens = torch.tensor([subject.token_documents[0][:24]])
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        traced = subject.logits(tokens)
    assert torch.equal(traced, subject.logits(tokens))
    assert not torch.allclose(traced, plain.logits(tokens), atol=1e-2)
    assert {call.mechanism.name for call in calls} == {name}
    assert {getattr(call.mechanism, "power", 3) for call in calls} == {3}
    assert set(calls[0].spec.params or {}) == ({"length_scale"} if name == "ssmax" else set())
    results = measure(sinks, subject, sinks.Settings(lengths=(16,), train_length=False, sequences=3))[
        "results"
    ]
    zeros = results["lengths"]["16"]["sparsity"]["zeros"]
    assert (zeros > 0.05) is (name != "ssmax")


def test_a_folder_that_says_how_it_attends_is_opened_so(
    tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    from attention.transformers import register

    register()
    model = tiny("llama")
    model.set_attn_implementation("zoo:softpick")
    subject = open_subject(save(model, tokenizer, tmp_path / "tiny"), text=prose_file)
    assert subject.label == "llama softpick"
    with torch.no_grad():
        tokens = torch.arange(20)[None]
        torch.testing.assert_close(subject.logits(tokens), model(tokens).logits)


def test_a_mechanism_that_has_no_place_is_refused(
    tokenizer: Any, run_path: Path, prose_file: str, tmp_path: Path
) -> None:
    folder = save(tiny("llama"), tokenizer, tmp_path / "tiny")
    with pytest.raises(AttentionError, match="unknown mechanism 'softpik'; did you mean 'softpick'"):
        open_subject(folder, attention="zoo:softpik")
    with pytest.raises(ModelError, match="attends as it was trained to"):
        open_subject(run_path, attention="zoo:softpick")
    sinky = save(tiny("gpt_oss"), tokenizer, tmp_path / "sinky")
    with pytest.raises((ModelError, AttentionError), match="has learned sinks"):
        open_subject(sinky, text=prose_file, attention="zoo:softpick")


def test_a_trace_that_is_not_what_the_model_computes_is_refused() -> None:
    model = tiny("llama")
    tokens, factors = torch.arange(24)[None], iter([1.0, 1.01, 1.0, 1.0])
    with pytest.raises(ModelError, match=r"its final states differ by 1\.0%"):
        probe(model, model.model.layers, lambda: model.model(tokens).last_hidden_state * next(factors))
    assert probe(model, model.model.layers, lambda: model.model(tokens).last_hidden_state).coverage.of == 2
