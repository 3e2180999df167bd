"""`python -m eval.quantization`: what it writes is the run that was measured, and it generates."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.analyses import quantize
from eval.analysis import evaluate
from eval.quantization.methods import WeightQuantizer
from eval.quantization.weights import replaced, weight_matrices
from eval.subject import open_subject
from eval.windows import cut
from storage import checkpoint_path
from storage.checkpoint import WEIGHTS
from tests.eval.conftest import RunMaker
from tests.eval.measuring import measure

pytestmark = pytest.mark.slow

ANALYSIS = quantize.ANALYSIS
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Command:
    def call(module: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        out, errors = capsys.readouterr()
        notices = ("compiling the CPU kernels", "which is read now")
        spoken = [line for line in errors.splitlines(keepends=True) if not any(n in line for n in notices)]
        return code, out, "".join(spoken)

    return call


@pytest.mark.parametrize("method", ["rtn", "gptq", "hqq"])
def test_the_run_that_is_written_is_the_one_that_was_measured(
    method: str, make_run: RunMaker, tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("hqq")
    path = make_run("whole", folder=tmp_path, attention="softmax,lssar")
    code, out, errors = command(
        "eval.quantization", path, tmp_path / "small", "--method", method, "--bits", 3, "--group", 16
    )
    assert (code, errors) == (0, "")
    assert f"python -m models.generate {tmp_path / 'small'}" in out
    subject, small = open_subject(path), open_subject(tmp_path / "small")
    quantized = WeightQuantizer(subject, 16, 32, quantize.Settings().calibration, 0.01).quantize(method, 3)
    tokens = cut(subject, 32, 2).tokens
    with replaced(weight_matrices(subject.blocks), quantized):
        assert torch.equal(small.logits(tokens), subject.logits(tokens))
    stored = (checkpoint_path(tmp_path / "small", 10) / WEIGHTS).stat().st_size
    results = measure(
        quantize, subject, quantize.Settings(methods=(method,), bits=(3,), group=16, sequences=2)
    )["results"]
    measured = results["bits" if method == "rtn" else method]["3"]["bytes"]
    assert measured == stored
    assert results["full_precision"]["bytes"] == (checkpoint_path(path, 10) / WEIGHTS).stat().st_size
    code, text, errors = command(
        "models.generate",
        tmp_path / "small",
        "--prompt",
        "the queen",
        "--max-new-tokens",
        5,
        "--device",
        "cpu",
    )
    assert (code, errors) == (0, "")
    assert text.startswith("the queen")


def test_the_widths_of_a_search(make_run: RunMaker, tmp_path: Path, command: Command) -> None:
    path = make_run("searched", folder=tmp_path)
    subject = open_subject(path)
    settings = quantize.Settings(
        methods=("search",), group=16, calibration=4, sequences=2, generations=3, offspring=8
    )
    result = evaluate(ANALYSIS, subject, settings).file
    widths = result["results"]["search"]["3"]["widths"]
    code, _, errors = command(
        "eval.quantization", path, tmp_path / "small", "--found", path / "eval/quantize.json"
    )
    assert (code, errors) == (0, "")
    small = open_subject(tmp_path / "small")
    scored = measure(quantize, small, quantize.Settings(methods=(), sequences=2))["results"]["full_precision"]
    assert scored["loss"] == pytest.approx(result["results"]["search"]["3"]["loss"], abs=1e-6)
    assert json.loads((tmp_path / "small" / "run.json").read_text())["quantized"]["bits"] == widths


def test_mistakes_are_one_line(make_run: RunMaker, tmp_path: Path, command: Command) -> None:
    path = make_run("mistaken", folder=tmp_path)
    other = make_run("other", folder=tmp_path, attention="softpick")
    evaluate(ANALYSIS, open_subject(path), quantize.Settings(methods=("rtn",), bits=(8,), sequences=2))
    for arguments, message in (
        ((path, tmp_path / "mistaken"), "exists; choose another folder"),
        ((path, tmp_path / "x", "--bits", 9), "--bits must be 1 to 8"),
        ((path, tmp_path / "x", "--method", "hqq", "--bits", 7), "hqq knows"),
        ((path, tmp_path / "x", "--found", path / "eval/quantize.json"), "holds no search"),
        ((path, tmp_path / "x", "--found", tmp_path / "nothing.json"), "holds no search"),
        ((tmp_path / "nowhere", tmp_path / "x"), "no run at"),
        ((other, tmp_path / "x", "--step", 3), "no checkpoint of step 3"),
        ((path, tmp_path / "x", "--method", "gtpq"), "invalid choice: 'gtpq'"),
    ):
        code, out, errors = command("eval.quantization", *arguments)
        assert (code, out) == (2, ""), arguments
        assert errors.startswith("error: "), errors
        assert errors.count("\n") == 1
        assert message in errors
    assert not (tmp_path / "x").exists()


def test_the_table(make_run: RunMaker, tmp_path: Path, command: Command) -> None:
    paths = [make_run(name, folder=tmp_path, attention=name) for name in ("softmax", "softpick")]
    settings = quantize.Settings(
        methods=("rtn", "gptq", "cache"), bits=(4, 2), sequences=3, group=16, calibration=4
    )
    results = [evaluate(ANALYSIS, open_subject(path), settings).results for path in paths]
    code, out, errors = command("eval.quantization.table", *paths)
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "| method, bits | bits per weight | softmax | softpick |"
    assert len(lines) == 4 + 6
    assert lines[3] == "| calibration: tokens |  | 128 | 128 |"
    score = results[1].rounded_by("rtn")["2"]
    assert lines[5].startswith(f"| rtn 2 | {score.bits_per_weight:.2f} | ")
    assert lines[5].endswith(f" {score.delta_loss:+.4f} ± {score.interval:.4f} |")
    code, _, errors = command("eval.quantization.table", tmp_path / "nothing")
    assert (code, errors.count("\n")) == (2, 1)
    assert "python -m eval quantize" in errors
