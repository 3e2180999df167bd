"""A model that is saved for transformers and opened by the code in its folder is the same to the bit."""

import ast
import json
from pathlib import Path

import pytest
import torch

import attention
from attention.forms.chunked import Chunked
from attention.transformers import register
from models import ModelError
from models.huggingface import AttentionZooConfig
from models.huggingface.code import flattened
from tests.export.conftest import Reopen, opened, planned, wrapped
from tests.models.conftest import VOCAB, tiny

BLOCKS = {
    "headwise gate": {"gate": "headwise"},
    "elementwise gate": {"gate": "elementwise"},
    "output norm": {"output_norm": True, "norm": "single_scale"},
    "differential": {"differential": True, "gate": "elementwise", "qk_norm": True},
    "value embeddings": {"value_embeddings": "alternate", "norm": "unscaled", "mlp": "relu_squared"},
    "query gain": {"qk_norm": True, "qk_gain": 2.5, "tie_embeddings": False},
    "softcap": {"logit_softcap": 3.0, "mlp": "gelu"},
    "stablemax": {"prediction": "stablemax", "position": "none"},
    "windows": {"attention": "softmax*1,swat*1", "window": "none*1,7*1"},
    "options": {"attention": "lssar*1,swat*1", "attention_options": {"lssar": {"power": 3}}},
    "slopes": {"attention": "ssmax*1,entmax15*1", "position": "alibi"},
    "theta": {"rope_theta": 123.0, "n_kv_head": 1},
}


def test_every_mechanism_gives_the_same_logits(reopen: Reopen, tokens: torch.Tensor) -> None:
    for name in attention.names():
        place = "none" if attention.get(name).form is Chunked else "rope"
        network, model = reopen(attention=name, position=place)
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, network(tokens)), name


@pytest.mark.parametrize("changes", BLOCKS.values(), ids=BLOCKS.keys())
def test_every_block_gives_the_same_logits(reopen: Reopen, tokens: torch.Tensor, changes: dict) -> None:
    network, model = reopen(**{"attention": "softpick", **changes})
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, network(tokens))


def test_what_the_folders_code_saves_opens_by_its_own_code(
    reopen: Reopen, tokens: torch.Tensor, tmp_path: Path
) -> None:
    network, model = reopen(attention="softpick*1,ssmax*1", gate="headwise")
    model.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(opened(tmp_path / "again")(tokens).logits, network(tokens))


def test_the_code_is_that_of_this_checkout_but_for_imports() -> None:
    root = Path(__file__).parents[2]
    for name, source in flattened().items():
        origin = root / source.partition(" of Attention Zoo")[0].removeprefix("# ")
        ours, theirs = (ast.parse(text) for text in (origin.read_text(), source))
        plain = [[node for node in tree.body if not _imports(node)] for tree in (ours, theirs)]
        changed = [
            (ast.unparse(a), ast.unparse(b))
            for a, b in zip(*plain, strict=True)
            if ast.dump(a) != ast.dump(b)
        ]
        assert all("classes(__name__" in before for before, _ in changed), (name, changed)
        found = [
            node.module for node in ast.walk(theirs) if isinstance(node, ast.ImportFrom) and not node.level
        ]
        assert {str(module).partition(".")[0] for module in found} <= ALLOWED, name


ALLOWED = {
    "attention",
    "torch",
    "transformers",
    "collections",
    "contextlib",
    "dataclasses",
    "itertools",
    "typing",
    "types",
}


def _imports(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or ast.unparse(node).startswith("if TYPE_CHECKING")


@pytest.mark.parametrize("asked", ["eager", "sdpa", "flash_attention_2", "zoo:softmax"])
def test_it_never_attends_otherwise(tmp_path: Path, asked: str) -> None:
    wrapped(tiny(attention="softpick")).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="not how this model was trained to attend \\(softpick\\)"):
        opened(tmp_path / "saved", attn_implementation=asked)
    model = opened(tmp_path / "saved")
    register()  # which gives every model names of mechanisms, but not these
    for wanted in (asked, {"": asked}):
        with pytest.raises(ValueError, match="not how this model was trained to attend"):
            model.set_attn_implementation(wanted)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda config: config["plan"].pop("attention"), "no plan that says how its layers attend"),
        (lambda config: config.pop("plan"), "no plan that says how its layers attend"),
        (lambda config: config["plan"].update(attention="sofmax"), "did you mean 'softmax'"),
        (lambda config: config.update(hidden_size=64), "the config says hidden_size=64, its plan 32"),
        (
            lambda config: config["plan"].update(qk_norm=True),
            r"do not fit the model's plan: tensors 4 missing",
        ),
        (lambda config: config["plan"].update(attention="softmax"), r"tensors 2 unknown"),
    ],
)
def test_a_config_that_was_changed_is_refused(tmp_path: Path, change, complaint: str) -> None:
    wrapped(tiny(attention="ssmax")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=complaint):
        opened(tmp_path)


def test_the_sizes_follow_from_the_plan() -> None:
    config = AttentionZooConfig(plan=planned(n_kv_head=2))
    assert (config.hidden_size, config.num_key_value_heads, config.vocab_size) == (32, 2, VOCAB)
    with pytest.raises(ModelError, match="vocab_size=65"):
        AttentionZooConfig(plan=planned(), vocab_size=65)
    with pytest.raises(ModelError, match="cannot be resized"):
        wrapped(tiny()).resize_token_embeddings(VOCAB + 1)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
