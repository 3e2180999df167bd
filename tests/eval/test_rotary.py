"""Rotary positions of Hugging Face models, rescaled: against transformers' own formulas and models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.analyses import lengths
from eval.subject import open_subject
from eval.subjects import rotary
from models import ModelError
from tests.eval.families import save, tiny
from tests.eval.measuring import measure

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers")

THETA, FACTOR, LENGTH = 10000.0, 4.0, 64
PARTIAL = {"phi": 4, "gpt_neox": 2, "llama": 8, "qwen3": 8}
"""Rotated channels of a head of eight."""


def tables(model: Any) -> list[rotary.RotaryTable]:
    found = rotary.rotary_tables(model, model.config.rope_parameters or {})
    assert not isinstance(found, str), found
    return found


def theirs(model: Any, kind: str, **parameters: float) -> tuple[torch.Tensor, float]:
    """Frequencies and factor that transformers computes for sequences `FACTOR` times as long as in training."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = type(model.config)(**model.config.to_dict())
    config.rope_parameters = {**model.config.rope_parameters, "rope_type": kind, **parameters}
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=int(FACTOR * LENGTH))


@pytest.mark.parametrize("family", PARTIAL)
def test_ntk_is_the_dynamic_scaling_of_transformers(family: str) -> None:
    model = tiny(family, head_dim=16, hidden_size=64)
    expected, _ = theirs(model, "dynamic", factor=1.0)
    (table,) = tables(model)
    trained = table.frequencies.clone()
    with rotary.rescaled([table], "ntk", FACTOR, LENGTH):
        torch.testing.assert_close(table.frequencies, expected)
        assert table.magnitude == 1
    assert torch.equal(table.frequencies, trained)


def test_yarn_has_the_temperature_and_the_ends_of_transformers() -> None:
    # Long enough for the fastest pair to turn more than 32 times.
    model = tiny("llama", head_dim=64, hidden_size=256, max_position_embeddings=4096)
    expected, factor = theirs(model, "yarn", factor=FACTOR, original_max_position_embeddings=4096)
    (table,) = tables(model)
    trained = table.frequencies.clone()
    with rotary.rescaled([table], "yarn", FACTOR, 4096):
        ours = table.frequencies.clone()
        assert table.magnitude == pytest.approx(factor) == pytest.approx(0.1 * math.log(FACTOR) + 1)
    kept, slowed = expected == trained, torch.isclose(expected, trained / FACTOR)
    assert kept.sum() > 3
    assert slowed.sum() > 3
    turning_more = trained * 4096 > 32 * 2 * math.pi
    torch.testing.assert_close(ours[turning_more], trained[turning_more])
    turning_less = trained * 4096 < 2 * math.pi
    torch.testing.assert_close(ours[turning_less], (trained / FACTOR)[turning_less])
    torch.testing.assert_close(ours[slowed & turning_less], expected[slowed & turning_less])
    # Between, a ramp in turns instead of one in channels: never outside of the two ends.
    assert bool(((ours <= trained * 1.0001) & (ours >= trained / FACTOR * 0.999)).all())


def test_the_network_computes_with_them(tokenizer: Any, prose_file: str, tmp_path: Path) -> None:
    folder = save(tiny("llama"), tokenizer, tmp_path / "tiny")
    subject = open_subject(folder, text=prose_file, results=tmp_path / "results")
    tokens = torch.tensor([subject.token_documents[0][:48]])
    usual = subject.logits(tokens)
    stretched = tiny(
        "llama", rope_parameters={"rope_type": "default", "rope_theta": THETA * FACTOR ** (8 / 6)}
    )
    stretched.load_state_dict(subject.network.state_dict())
    with subject.rescaled("ntk", FACTOR, LENGTH), torch.no_grad():
        torch.testing.assert_close(subject.logits(tokens), stretched(tokens).logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(subject.logits(tokens), usual, atol=1e-3)
    assert torch.equal(subject.logits(tokens), usual)
    results = measure(lengths, subject, lengths.Settings(tokens=256, multiples=(1, 2)))["results"]
    assert list(results["rescaled"]) == ["ntk", "yarn"]


def test_a_table_of_windows_is_kept() -> None:
    model = tiny("gemma3_text")
    (table,) = tables(model)
    assert table.prefix == "full_attention_"
    local = model.get_submodule("model.rotary_emb").get_buffer("sliding_attention_inv_freq").clone()
    with rotary.rescaled([table], "yarn", FACTOR, LENGTH):
        assert torch.equal(
            model.get_submodule("model.rotary_emb").get_buffer("sliding_attention_inv_freq"), local
        )


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt2", {}, "are no rotary ones"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            r"are scaled by its own config \(rope_type linear\)",
        ),
    ],
)
def test_positions_that_cannot_be_rescaled_say_why(
    family: str, changes: dict[str, Any], reason: str, tokenizer: Any, prose_file: str, tmp_path: Path
) -> None:
    folder = save(tiny(family, **changes), tokenizer, tmp_path / "tiny")
    subject = open_subject(folder, text=prose_file, results=tmp_path / "results")
    with pytest.raises(ModelError, match=f"the positions of tiny {reason}.*; use --rope none"):
        subject.rescaled("ntk", 2.0, 64)
    protocol = measure(lengths, subject, lengths.Settings(tokens=64, multiples=(1,)))["protocol"]
    assert protocol["not_rescaled"].startswith("the positions of tiny are ")
