"""Runs that begin with the weights of a Hugging Face model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from models import GPT, ModelError
from models.config import from_dict
from storage import checkpoint_path, load_run
from storage.source import open_source
from tests import bytelevel
from tests.training.conftest import MakeConfig
from tests.training.test_going_on import record
from training import load, train
from training.initial import compare

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 280,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "head_dim": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-5},
    "MistralConfig": {"sliding_window": 5},
    "Qwen3Config": {
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
}

TRAIN = {
    "steps": 4,
    "batch_size": 2,
    "length": 32,
    "warmup_steps": 1,
    "precision": "fp32",
    "tracker": "none",
    "validate_every": 2,
    "learning_rate": 1e-12,
    "weight_decay": 0.0,
}


def saved(folder: Path, family: str, **options: Any) -> Any:
    """A random model of a family in a folder; gives the model."""
    torch.manual_seed(0)
    config = getattr(transformers, family)(**{**SHAPE, **options})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("family", "options"), FAMILIES.items(), ids=FAMILIES.keys())
def test_a_model_of_others_gives_its_own_logits(tmp_path: Path, family: str, options: dict) -> None:
    theirs = saved(tmp_path, family, **options)
    source = open_source(tmp_path)
    ours = GPT(from_dict(source.model)).eval()
    ours.load_state_dict(source.state)
    tokens = torch.randint(280, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    windows = {"LlamaConfig": None, "MistralConfig": "5", "Qwen3Config": "none,4"}
    assert source.model["window"] == windows[family]


@pytest.mark.parametrize(
    ("family", "options", "complaint"),
    [
        (
            "Qwen2Config",
            {},
            r"6 tensors that the block here has no place for: model\.layers\.0\..*k_proj\.bias",
        ),
        ("LlamaConfig", {"attention_bias": True}, "attention_bias True \\(must be False\\)"),
        ("LlamaConfig", {"hidden_act": "gelu"}, "hidden_act 'gelu' \\(must be 'silu'\\)"),
        ("Qwen3Config", {"head_dim": 16}, "head_dim 16 \\(must be 8\\)"),
        (
            "LlamaConfig",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope type 'linear'",
        ),
        ("GPT2Config", {}, "a model of type 'gpt2', not of one that is read"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, family: str, options: dict, complaint: str
) -> None:
    saved(tmp_path, family, **options)
    with pytest.raises(ModelError, match=complaint) as refused:
        open_source(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_copy_of_a_tied_embedding_is_left_out(tmp_path: Path) -> None:
    saved(tmp_path, "LlamaConfig", tie_word_embeddings=True)
    state = load_file(tmp_path / "model.safetensors")
    save_file(
        state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    source = open_source(tmp_path)
    assert not any(name.startswith("head.") for name in source.state)
    compare(source, from_dict(source.model), "it")


def test_the_recipe_of_papers_leaves_the_choices_of_the_source(tmp_path: Path) -> None:
    """Whose head has a matrix of its own; null, as the recipe has it, would tie it without a source."""
    saved(tmp_path, "LlamaConfig")
    recipe = Path(__file__).parents[2] / "configs/recipes/paper.yaml"
    model = load(recipe, ["model.preset=null", f"train.init_from={tmp_path}", "model.window=null"]).model
    assert (model.tie_embeddings, model.n_layer, model.d_ff, model.window) == (False, 2, 48, None)


def test_files_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "LlamaConfig")
    state = load_file(tmp_path / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    with pytest.raises(ModelError, match="1 missing there"):
        compare(source, from_dict(source.model), "it")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot read"):
        open_source(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        open_source(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": "big"}))
    with pytest.raises(ModelError, match="hidden_size must be a positive integer, got 'big'"):
        open_source(tmp_path)


@pytest.fixture
def others(tmp_path: Path, corpus: Path) -> Path:
    """A folder with a random Llama and a byte-level tokenizer."""
    folder = tmp_path / "others"
    fast = bytelevel.trained([corpus.read_text()], 280)
    saved(folder, "LlamaConfig", tie_word_embeddings=True)
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=bytelevel.END).save_pretrained(
        folder
    )
    return folder


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_others(
    make: MakeConfig, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a shape of its own; the tests' config has one.
    plain = tmp_path / "heal.yaml"
    plain.write_text(yaml.safe_dump({"train": TRAIN}))
    options = [
        "data.corpus=jsonl",
        f"data.path={make().data.path}",
        f"out={tmp_path / 'runs'}",
        f"train.init_from={others}",
        "model.attention=ssmax",
    ]
    other = "another tokenizer; give this run the same: data.tokenizer.path=.*tokenizer.json"
    with pytest.raises(ModelError, match=other):
        train(load(plain, [*options, "data.tokenizer.vocab_size=300", "model.vocab_size=300"]))
    options.append(f"data.tokenizer.path={others}/tokenizer.json")
    run = train(load(plain, options))
    said = capsys.readouterr().out
    assert "begins with 20 tensors of" in said
    assert "at their initial values: layers.0.attention.mixer.learned.length_scale" in said
    source, found = open_source(others), load_file(checkpoint_path(run, 4) / "model.safetensors")
    for name, tensor in source.state.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-8)
    origin = record(run)["init_from"]
    assert (origin["run"], origin["step"], origin["checkpoint"]) == (str(others), None, source.checkpoint)
    opened = load_run(run)
    assert (opened.model.plan.n_head, opened.model.plan.attention) == (4, "ssmax")
    text = "the king sees a fox ▁ é\n"
    assert opened.tokenizer.decode(opened.tokenizer.encode(text)) == text

    # Going on does not read the source again.
    others.rename(tmp_path / "moved")
    kept = f"data.tokenizer.path={run}/tokenizer.model"
    train(load(plain, [*options[:-1], kept, "train.validate_every=4"]), resume=True)
