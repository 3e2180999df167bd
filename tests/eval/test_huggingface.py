"""Hugging Face models: the traced attention is the model's own, and what it cannot be is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attention import AttentionError
from eval.analyses import activations, bottleneck, lengths, quantize, sinks
from eval.analysis import evaluate
from eval.catalogue import get
from eval.quantization import probabilities
from eval.quantization.activations import largest_inputs, quantized_activations
from eval.quantization.cache import QuantizedCache
from eval.quantization.weights import weight_matrices
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import cut
from models import ModelError
from tests.eval.families import SHAPE, save, tiny
from tests.eval.measuring import measure
from tests.eval.test_gptq import check_blocks

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")

FAMILIES = ["llama", "gpt2", "qwen2", "mistral", "gemma", "gemma3_text", "cohere", "gemma2", "gpt_oss"]
MEASURED = ["llama", "gpt2", "mistral", "gemma3_text", "gemma2", "gpt_oss"]


@pytest.fixture(scope="session")
def folders(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("hub")
    return {family: save(tiny(family), tokenizer, place / f"tiny-{family}") for family in FAMILIES}


def opened(folders: dict[str, Path], kind: str, text: str, tmp_path: Path) -> Subject:
    return open_subject(folders[kind], text=text, results=tmp_path)


@pytest.mark.parametrize("kind", MEASURED)
def test_metrics_are_those_of_what_transformers_returns(
    folders: dict[str, Path], kind: str, prose_file: str, tmp_path: Path
) -> None:
    subject = opened(folders, kind, prose_file, tmp_path)
    settings = sinks.Settings(lengths=(24,), train_length=False, sequences=5, thresholds=(0.05, 0.1), keys=3)
    got = measure(sinks, subject, settings)["results"]["lengths"]["24"]
    moved = measure(activations, subject, activations.Settings(length=24, sequences=5))["results"]
    tokens = cut(subject, 24, 5).tokens
    eager = transformers.AutoModelForCausalLM.from_pretrained(folders[kind], attn_implementation="eager")
    streams: list[torch.Tensor] = []
    for block in eager.transformer.h if kind == "gpt2" else eager.model.layers:
        block.register_forward_hook(
            lambda module, inputs, output: streams.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.no_grad():
        attention = torch.stack(eager(tokens, output_attentions=True).attentions).double()

    share = attention / attention.sum(-1, keepdim=True)  # of rows with a sink, which sum to less than one
    # Rows that see the first key give it some weight.
    alpha = attention[..., 0].sum(-1) / (attention[..., 0] > 0).sum(-1)
    for threshold in ("0.05", "0.1"):
        hit = (alpha > float(threshold)).double()
        assert got["sink_rate"]["raw"][threshold] == pytest.approx(hit.mean().item())
        mean = attention[..., 0].mean(-1)
        expected = (mean > float(threshold)).double().mean().item()
        assert got["published"]["softpick"]["rate"][threshold] == pytest.approx(expected)
        mean = share[..., 0].mean(-1)
        expected = (mean > float(threshold)).double().mean().item()
        assert got["published"]["gu"]["rate"][threshold] == pytest.approx(expected)
    torch.testing.assert_close(
        torch.tensor(got["heads"]["importance"]["raw"]).double(), alpha.mean(1), atol=1e-5, rtol=1e-3
    )
    entropy = torch.special.entr(share).sum(-1).mean().item()
    assert got["entropy"]["nats"] == pytest.approx(entropy, rel=1e-4)
    residual = torch.stack(streams).double()
    assert moved["range"]["max"] == pytest.approx(residual.max().item(), rel=1e-4)
    centred = residual - residual.mean()
    kurtosis = centred.pow(4).mean() / centred.pow(2).mean() ** 2
    assert moved["kurtosis"]["pooled"] == pytest.approx(kurtosis.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma", "cohere", "gemma2"])
def test_the_head_reads_the_final_states(
    folders: dict[str, Path], kind: str, prose_file: str, tmp_path: Path
) -> None:
    subject = opened(folders, kind, prose_file, tmp_path)
    tokens = torch.tensor([subject.token_documents[0][:24]])
    states = subject.states(tokens)
    torch.testing.assert_close(subject.read_out(states), subject.logits(tokens))
    at = torch.tensor([0, 0]), torch.tensor([23, 4])
    torch.testing.assert_close(subject.logits(tokens, at), subject.logits(tokens)[at])
    if kind not in ("cohere", "gemma2"):
        torch.testing.assert_close(states @ subject.head.mT, subject.logits(tokens))
    got = measure(bottleneck, subject, bottleneck.Settings(length=16, tokens=64))["results"]
    assert len(got["spectrum"]["values"]) == 32


def test_a_head_that_does_more_than_is_known_is_refused(
    folders: dict[str, Path], prose_file: str, tmp_path: Path
) -> None:
    subject = opened(folders, "cohere", prose_file, tmp_path)
    subject.network.config.logit_scale = None  # the model has read it before
    with pytest.raises(ModelError, match="tiny-cohere does more than multiply by its head"):
        measure(bottleneck, subject, bottleneck.Settings(length=16, tokens=64))


def test_the_usual_attention_comes_back(folders: dict[str, Path], prose_file: str, tmp_path: Path) -> None:
    subject = opened(folders, "llama", prose_file, tmp_path)
    usual = subject.network.config._attn_implementation
    with subject.trace(attention=lambda call: None):
        assert subject.network.config._attn_implementation == "zoo:auto"
    assert subject.network.config._attn_implementation == usual


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_hidden_states_are_the_residual_stream(
    folders: dict[str, Path], kind: str, prose_file: str, tmp_path: Path
) -> None:
    subject = opened(folders, kind, prose_file, tmp_path)
    tokens = torch.tensor([subject.token_documents[0][:24]])
    streams: dict[int, torch.Tensor] = {}
    with subject.trace(hidden=streams.__setitem__):
        subject.observe(tokens)
    with torch.no_grad():
        expected = subject.network(tokens, output_hidden_states=True).hidden_states
    assert list(streams) == [-1, 0, 1]
    # transformers normalises the last entry; the residual stream itself is what a trace reports.
    torch.testing.assert_close(streams[-1], expected[0])
    torch.testing.assert_close(streams[0], expected[1])
    norm = subject.network.transformer.ln_f if kind == "gpt2" else subject.network.model.norm
    torch.testing.assert_close(norm(streams[1]), expected[2])


def test_masks_and_dropout_that_would_be_lost_are_refused(
    folders: dict[str, Path], prose_file: str, tmp_path: Path
) -> None:
    subject = opened(folders, "llama", prose_file, tmp_path)
    tokens = torch.tensor([subject.token_documents[0][:8]] * 2)
    padding = torch.ones_like(tokens)
    padding[0, :3] = 0
    with subject.trace(attention=lambda call: None):
        with pytest.raises(ModelError, match="mask other than causal"), torch.no_grad():
            subject.network(tokens, attention_mask=padding)
        block = subject.network.model.layers[0].self_attn
        block.is_causal = False
        with pytest.raises(ModelError, match="mask other than causal"):
            subject.observe(tokens)
        block.is_causal = True
        block.attention_dropout = 0.1
        block.train()
        with pytest.raises(AttentionError, match="drops"):
            subject.observe(tokens)


def test_limits_follow_the_kind_of_positions(
    folders: dict[str, Path], prose_file: str, tmp_path: Path
) -> None:
    llama, gpt2 = (opened(folders, kind, prose_file, tmp_path) for kind in ("llama", "gpt2"))
    assert (llama.train_length, llama.max_length) == (64, None)
    assert (gpt2.train_length, gpt2.max_length) == (64, 64)
    assert llama.bos == 0
    assert llama.decode(llama.encode("the queen\nspeaks")) == "the queen\nspeaks"


def test_the_analyses_take_them(folders: dict[str, Path], prose_file: str, tmp_path: Path) -> None:
    for kind in ("llama", "gpt2"):
        subject = opened(folders, kind, prose_file, tmp_path)
        results = measure(sinks, subject, sinks.Settings(lengths=(16,), sequences=4))["results"]
        assert results["lengths"]["16"]["mass"]["mean"] == pytest.approx(1)
        assert (
            measure(activations, subject, activations.Settings(length=16, sequences=4))["results"]["tokens"]
            == 64
        )
        assert len(weight_matrices(subject.blocks)) == {"llama": 14, "gpt2": 8}[kind]
        scores = measure(
            quantize, subject, quantize.Settings(methods=("rtn",), length=16, sequences=4, bits=(8, 2))
        )["results"]["bits"]
        assert scores["2"]["weight_error"] > scores["8"]["weight_error"] > 0
        measured = measure(lengths, subject, lengths.Settings(tokens=256))["results"]
        assert list(measured["lengths"]) == {"llama": ["64", "128", "256"], "gpt2": ["64"]}[kind]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_id_without_a_piece_is_never_written(
    tokenizer: Any, prose_file: str, tmp_path: Path, temperature: float
) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SHAPE, "vocab_size": 448}, tie_word_embeddings=False)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) :] *= 50
    model.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    subject = open_subject(tmp_path / "padded", text=prose_file)
    prompt = [subject.bos, *subject.encode("the queen")]
    assert int(subject.logits(torch.tensor([prompt]))[0, -1].argmax()) >= len(tokenizer)
    written = subject.generate(prompt, 40, temperature)
    assert len(written) > 0
    assert max(written) < len(tokenizer)


def test_sizes_are_those_of_the_files(folders: dict[str, Path], prose_file: str, tmp_path: Path) -> None:
    subject = open_subject(folders["llama"], dtype="bfloat16", text=prose_file, results=tmp_path)
    asked = quantize.Settings(methods=("rtn",), length=16, sequences=2, bits=(8,))
    results = measure(quantize, subject, asked)["results"]
    full, packed = results["full_precision"]["bytes"], results["bits"]["8"]["bytes"]
    assert full == sum(file.stat().st_size for file in folders["llama"].glob("*.safetensors"))
    count = results["rounded"]["parameters"]
    # The files hold float32, 4 bytes for each weight, names aside.
    saved = (4 - results["bits"]["8"]["bits_per_weight"] / 8) * count
    assert full - packed == pytest.approx(saved, rel=0.05)


def test_what_is_not_a_causal_language_model_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        open_subject(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be opened as a causal language model"):
        open_subject(tmp_path)
    with pytest.raises(ModelError, match="has no steps"):
        open_subject(folders["llama"], step=3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gptq_walks_through_their_blocks(
    kind: str, folders: dict[str, Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject: Any = open_subject(folders[kind], text=str(corpus / "00.txt"), results=tmp_path)
    documents = [(corpus / f"{index:02}.txt").read_text() for index in (1, 2, 3)]
    monkeypatch.setattr(subject, "training_documents", lambda count: ("prose", documents))
    check_blocks(subject)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_few_bits_in_their_attention_and_activations(
    kind: str, folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    subject = open_subject(folders[kind], text=str(corpus / "00.txt"), results=tmp_path)
    windows = cut(subject, 24, 2)
    full = subject.logits(windows.tokens)
    moved = {}
    for bits in (8, 2):
        with subject.trace(attention=QuantizedCache(bits).attention):
            moved["cache", bits] = float((subject.logits(windows.tokens) - full).abs().mean())
        found = probabilities.ranges(subject, windows)
        mass = probabilities.mass(subject, windows, found, [bits])[bits]
        with subject.trace(
            attention=lambda call, b=bits, m=mass, f=found: probabilities.attention(call, b, f, m)
        ):
            moved["probabilities", bits] = float((subject.logits(windows.tokens) - full).abs().mean())
        with quantized_activations(subject, bits, largest_inputs(subject, windows)):
            moved["activations", bits] = float((subject.logits(windows.tokens) - full).abs().mean())
    for what in ("cache", "probabilities", "activations"):
        assert 0 < moved[what, 8] < 0.2 * moved[what, 2], what
    assert torch.equal(subject.logits(windows.tokens), full)


@pytest.mark.parametrize("change", ["config", "generation", "format"])
def test_an_edited_config_makes_another_model_of_the_same_weights(
    folders: dict[str, Path], change: str, prose_file: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["llama"], tmp_path / "llama")
    item, settings = get("activations"), activations.Settings(sequences=2)

    def reused() -> bool:
        return evaluate(item, open_subject(folder, text=prose_file), settings).reused

    assert (reused(), reused()) == (False, True)
    file = folder / ("generation_config.json" if change == "generation" else "config.json")
    config = json.loads(file.read_text())
    match change:
        case "config":
            config["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
        case "generation":
            config["repetition_penalty"] = 2.0
    file.write_text(json.dumps(dict(reversed(config.items()))))
    assert reused() is (change == "format")
