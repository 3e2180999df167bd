"""`python -m attention.check` says what runs, how exact and how fast; a kernel that fails makes its exit status 1."""

import sys

import pytest
import torch

from attention import check
from attention.forms.composite import Mixture
from attention.kernels import proof, tiled
from attention.kernels.trial import Verdict


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, on the kernels that are made of PyTorch and one length; returns its status and its page."""
    kernels = {name: check.KERNELS[name] for name in ("tiled", "chunked", "dense", "triton")}
    monkeypatch.setattr(check, "KERNELS", kernels)
    monkeypatch.setattr(check, "ROUNDS", 1)
    monkeypatch.setattr(proof, "_folder", lambda: tmp_path / "trials")

    def run(*arguments):
        page = tmp_path / "page.md"
        monkeypatch.setattr(sys, "argv", ["check", "--device", "cpu", *arguments, "--write", str(page)])
        return check.main(), page.read_text()

    return run


def test_the_page_says_what_runs_how_exact_and_how_fast(run, capsys):
    status, page = run("--mechanism", "softpick", "simrf", "--dtype", "float32", "--lengths", "16")
    assert status == 0
    assert page == capsys.readouterr().out
    for words in ("- torch: ", "- triton: ", "- flash-attn: ", "- processor: ", "## Kernels on cpu"):
        assert words in page
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    exact = {(row[0], row[2]): row[3] for row in rows if len(row) == 4 and row[2].startswith("`")}
    assert exact.keys() == {("softpick", "`tiled`"), ("simrf", "`chunked`")}
    assert all(0 < float(ratio) <= 2 for ratio in exact.values())
    (speed,) = [row for row in rows if row[0] == "torch's SDPA softmax"]
    assert speed[1].endswith(" ms")
    (triton,) = [row for row in rows if row[0] == "`triton`"]
    assert triton[2] == "nothing"
    assert "needs a GPU" in triton[3] or "not installed" in triton[3]


def test_a_kernel_that_fails_is_told_and_makes_the_status_1(run, monkeypatch):
    mix = tiled.mix
    monkeypatch.setattr(tiled, "mix", lambda inputs: Mixture(mix(inputs).out * 1.01, mix(inputs).log_mass))
    status, page = run("--mechanism", "softpick", "--dtype", "float32", "--lengths", "0")
    assert status == 1
    assert "| softpick | Ratio | `tiled` | **FAILS** |" in page
    assert "- `tiled`, softpick, float32: output errs" in page
    assert "How fast" not in page


def test_one_mechanism_stands_for_each_form():
    forms = {check.get(name).form for name in check.names()}
    assert {check.get(name).form for name in check.representatives()} == forms
    assert len(check.representatives()) <= len(forms) + 2


def test_a_dtype_that_is_imitated_here_is_not_timed():
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    found = check.exactness([check.get("softpick")], [torch.float32], torch.device("cpu"))
    found |= {("softpick", "tiled", dtype): Verdict(0.5, None) for dtype in kinds}
    assert check._timed(kinds, found) == kinds[:1]
    found["softpick", "cpu", torch.bfloat16] = Verdict(0.5, None)
    assert check._timed(kinds, found) == kinds[:2]


def test_a_verdict_with_mass_counts_for_a_composite():
    found = check.exactness([check.get("weighted_softpick")], [torch.float32], torch.device("cpu"))
    assert isinstance(found["weighted_softpick", "tiled", torch.float32], Verdict)
    assert isinstance(found["weighted_softpick", "sdpa", torch.float32], str)
