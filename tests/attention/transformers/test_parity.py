"""`zoo:auto` is each family's own formula, under every mask and with every cache."""

import pytest
import torch

from attention import AttentionError
from attention.transformers import parity
from attention.transformers.families import FAMILIES, WINDOW, tiny
from attention.transformers.parity import cells, logits

NAMED = {
    *("Llama", "Mistral", "Qwen2", "Qwen3", "GPT-2", "Phi", "OLMo", "SmolLM3", "NanoChat"),
    *("Gemma 2", "Gemma 3", "gpt-oss", "Granite SWA", "Qwen3-Next"),
}
"""The families that the documentation promises."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_logits_are_those_of_its_own_eager_code(family):
    found = list(cells([family], dtypes=["float32"]))
    assert len(found) == 10
    assert not [cell for cell in found if not cell.holds]
    assert not [cell for cell in found if cell.difference is None]


def test_the_promised_families_are_among_them():
    assert FAMILIES.keys() >= NAMED


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", FAMILIES)
def test_half_types_are_as_close_as_eager(family):
    assert not [cell for cell in cells([family], dtypes=["bfloat16"]) if not cell.holds]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *(
            (family, {"sliding_window": 1000})
            for family, (_, told) in FAMILIES.items()
            if "sliding_window" in told
        ),
        ("Gemma 2", {"attn_logit_softcapping": None}),
        ("VaultGemma", {"attn_logit_softcapping": None}),
    ],
    ids=str,
)
def test_what_a_family_asks_for_changes_its_logits(family, changes):
    """Else parity would not tell whether it is served."""
    kept, changed = (logits(tiny(family, "zoo:auto", **told), "causal", "none") for told in ({}, changes))
    assert (kept - changed).abs().max() > 0.01


@pytest.mark.parametrize("family", ["gpt-oss", "Granite SWA", "Granite MoE SWA", "Flint", "MiMo-V2-Flash"])
def test_sinks_change_logits(family):
    model = tiny(family, "zoo:auto")
    before = logits(model, "causal", "none")
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.data.fill_(-30.0)
    assert (logits(model, "causal", "none") - before).abs().max() > 0.01


def test_windows_are_shorter_than_the_texts():
    assert WINDOW < parity.LENGTH - 9


def test_a_cell_that_does_not_hold_is_seen(monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 1e-9)
    (cell,) = cells(["Llama"], ["causal"], ["none"], ["float32"])
    assert not cell.holds
    assert parity._shown(cell).startswith("**")


def test_an_unknown_family_is_refused():
    with pytest.raises(AttentionError, match="did you mean 'Llama'"):
        tiny("llama")


def test_rows_that_are_all_padding_are_finite():
    for family in ("Llama", "gpt-oss", "Gemma 2"):
        model = tiny(family, "zoo:auto")
        tokens = torch.randint(3, 90, (2, 12))
        real = torch.ones_like(tokens)
        real[0] = 0
        with torch.no_grad():
            out = model(tokens, attention_mask=real).logits
        assert torch.isfinite(out).all()
