"""The whole journey through the commands a newcomer types: train two mechanisms, evaluate them, open the report."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MECHANISMS = ("softmax", "softpick")
TINY = [
    "model.n_layer=2",
    "model.d_model=32",
    "model.n_head=2",
    "train.length=64",
    "train.steps=6",
    "train.warmup_steps=2",
    "train.batch_size=4",
    "train.validation_sequences=16",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained and evaluated runs."""
    out = tmp_path_factory.mktemp("runs")
    for name in MECHANISMS:
        run(["train.py", f"configs/demo/{name}.yaml", f"out={out}", *TINY])
    run(["-m", "eval", "all", *(str(out / name) for name in MECHANISMS)])
    return out


def run(command: list[str]) -> str:
    """What a command of the project prints; it must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class Page(HTMLParser):
    """The text of a page and the addresses it loads from."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.loads = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name == "src" or (tag == "link" and name == "href")]

    def handle_data(self, data):
        self.text += data


def test_the_report_shows_what_was_measured_and_loads_nothing(runs):
    page = Page((runs / "report.html").read_text())
    assert not [address for address in page.loads if not address.startswith("data:")]
    for name in MECHANISMS:
        assert name in page.text
        last = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()][-1]
        assert f"{last['bits_per_byte']:.4f}" in page.text
    assert json.loads((runs / "report.json").read_text())


def test_every_analysis_left_its_numbers(runs):
    for name in MECHANISMS:
        written = {path.stem for path in (runs / name / "eval").glob("*.json")}
        assert {"sinks", "activations", "quantize", "lengths", "harness", "heatmaps"} <= written


def test_a_second_call_computes_nothing_again(runs):
    printed = run(["-m", "eval", "sinks", str(runs / "softmax")])
    assert "reused" in printed
    printed = run(["train.py", "configs/demo/softmax.yaml", f"out={runs}", *TINY, "--resume"])
    assert "already complete" in printed


def test_the_comparison_is_printed_too(runs):
    printed = run(["-m", "eval", "report", *(str(runs / name) for name in MECHANISMS)])
    for column in json.loads((runs / "report.json").read_text())["columns"]:
        assert column["title"] in printed
        assert all(cell["text"] in printed for cell in column["cells"])


def test_the_trained_model_speaks(runs):
    command = ["-m", "models.generate", str(runs / "softmax"), "--prompt", "HAMLET", "--max-new-tokens", "8"]
    first, second = (run([*command, "--seed", "3"]) for _ in range(2))
    assert first == second
    assert first.startswith("HAMLET")
    assert len(first) > len("HAMLET")
