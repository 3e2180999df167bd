"""The page of a mechanism follows from the mechanism's file alone."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import attention
from attention.core import registry
from website import drawings, mechanisms, tables

ROOT = Path(__file__).parents[2]
HEADINGS = [
    "What it does to scores",
    "Hazards",
    "Use it",
    "What the paper says",
    "What its published code does",
    "What this project does",
    "Kernels",
    "Measured",
    "Source",
]


@pytest.fixture(scope="module")
def sources() -> mechanisms.Sources:
    return mechanisms.Sources.read(ROOT)


@pytest.fixture
def softsign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The mechanism of docs/add-a-mechanism.md, from a file that lies elsewhere."""
    text = (ROOT / "docs" / "add-a-mechanism.md").read_text()
    (code,) = re.findall(r"```python\n# attention/mechanisms/softsign.py\n(.*?)```", text, re.DOTALL)
    (tmp_path / "its_softsign.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    __import__("its_softsign")
    return "softsign"


def test_a_new_file_has_a_page(softsign: str, sources: mechanisms.Sources) -> None:
    page = mechanisms.page(softsign, sources)
    assert page.startswith("# softsign\n\nSoftsign attention: an example of a normalised, bounded weight.\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    assert page.count('<div class="formula-row">') == 1
    assert page.count("<svg") == 2
    assert "Two keys differ by a factor of 2 at most where both scores are positive." in page
    assert "| `epsilon` | `1e-08` | added to the denominator |" in page
    assert "python train.py configs/micro-softmax.yaml name=micro-softsign model.attention=softsign\n" in page
    assert "python -m attention.conformance --mechanism softsign --write docs/capabilities.md" in page
    assert "Nothing in this repository has been measured with it yet." in page
    assert "| [`softsign`](softsign.md)<br>" in mechanisms.index()


def test_a_page_has_kernels_results_and_configs(sources: mechanisms.Sources) -> None:
    page = mechanisms.page("softpick", sources)
    kernels = page.partition("## Kernels")[2].partition("## Measured")[0]
    assert "| `cpu` | yes | yes | yes, but<sup>1</sup> | no<sup>2</sup> | yes, but<sup>" in kernels
    assert "- `sdpa`: it computes softmax only" in kernels
    measured = page.partition("## Measured")[2]
    assert '??? info "Attention: time and memory"' in measured
    assert "    | softpick | cpu |" in measured
    assert "relu_softmax" not in measured
    assert "python train.py configs/micro-softpick.yaml\npython train.py configs/demo/softpick.yaml\n" in page


def test_the_drawn_row_is_what_the_library_computes() -> None:
    for name, function in (("softmax", torch.softmax), ("sigmoid", None)):
        scores = torch.tensor(drawings.ROW)
        expected = function(scores, -1) if function else torch.sigmoid(scores - torch.tensor(32.0).log())
        torch.testing.assert_close(drawings.row(attention.get(name)).weight, expected, atol=1e-6, rtol=1e-5)
    sentence = drawings.row(attention.get("softpick")).sentence()
    zeros = sum(score <= 0 for score in drawings.ROW)
    assert f"{zeros} of its 32 weights are exactly zero" in sentence


def test_noise_of_training_is_drawn() -> None:
    assert drawings.row(attention.get("softmax")).training is None
    noisy = drawings.row(attention.get("gumbel_softmax"))
    assert noisy.training is not None
    assert not torch.equal(noisy.training, noisy.weight)
    assert "in training" in drawings.draw_row("gumbel_softmax")


def test_a_curve_is_the_weight_of_the_key_that_moves() -> None:
    score, weight = drawings.curve(attention.get("sparsemax"))
    assert weight[0] == 0
    assert weight[-1] > 0.9
    assert bool((weight.diff() >= 0).all())
    assert (score[0], score[-1]) == drawings.RANGE


@dataclass(frozen=True)
class _Case:
    first: str
    is_about: bool


@pytest.mark.parametrize(
    "case",
    [
        _Case("softmax", True),
        _Case("`softmax`", True),
        _Case("[`softmax`](x.md)", True),
        _Case("**softmax**, auto", True),
        _Case("softmax1", False),
        _Case("softmax(window=3)", False),
        _Case("SDPA softmax", False),
    ],
    ids=lambda case: case.first,
)
def test_rows_about_a_mechanism_begin_with_its_name(case: _Case) -> None:
    page = f"# Title\n\n## Part\n\n| name | x |\n| --- | --- |\n| {case.first} | 1 |\n| other | 2 |\n"
    (table,) = tables.tables(page)
    assert (table.heading, table.header) == ("Part", ["name", "x"])
    assert bool(table.about("softmax")) is case.is_about
