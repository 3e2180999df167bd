import copy
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import InputError
from eval import analysis, provenance
from eval.display import Line, Number, Plot
from eval.heatmap_cells import pack
from eval.report import command as report
from eval.report import comparison
from eval.report.command import Report, Settings
from eval.report.comparison import Measured, cells, columns
from eval.report.findings import Check, checks, findings
from eval.report.page import render
from models import ModelError

PROTOCOL = {
    "settings": {"sequences": 8},
    "text": {"source": "a text", "documents": 1, "bytes": 1000, "sha256": "ab" * 32},
    "tokenizer": "cd" * 32,
    "dtype": "float32",
    "code": "0123",
}


def results(sink: float, kurtosis: float, zeros: float = 0.0) -> dict:
    """Plausible results of every analysis, as their modules document them: two layers of two heads."""
    heads = [[sink, sink / 2], [0.0, None]]
    rates = {"raw": {"0.3": sink}, "renormalised": {"0.3": sink / 2}}
    rows = {
        "sink_rate": rates,
        "mass": {
            "mean": 0.9,
            "positions": [1, 2, 32],
            "mean_at": [1, 0.9, 0.8],
            "p5_at": [1, 0.8, 0.7],
            "p95_at": [1, 1, 1],
        },
        "entropy": {"nats": 1.5},
        "sparsity": {"zeros": zeros},
        "dead_heads": {"0.01": 0.0},
        "heads": {"sink_rate": {"raw": {"0.3": heads}, "renormalised": {"0.3": heads}}},
    }
    curve = {"start": [1, 2, 3], "end": [1, 2, 4], "loss": [3.0, 2.5, 2.0 + sink], "tokens": [500, 500, 10]}
    bits = {
        str(b): {
            "loss_ratio": 1 + sink / b**4,
            "perplexity_ratio": 1 + kurtosis / b**4,
            "weight_error": 1 / b**2,
        }
        for b in (8, 4, 3, 2)
    }
    weights = np.array([[1.0, np.nan, np.nan], [0.25, 0.75, np.nan], [0.0, np.nan, sink]])
    known = {"residual": 1.5e-7, "zeros": zeros, "negative": 0.0, **pack(weights)}
    panels = [{"head": head, **known} for head in (0, 1)]
    found = {
        "sinks": {"lengths": {"16": rows, "32": rows}},
        "activations": {
            "kurtosis": {"pooled": kurtosis, "layers": [3.0, kurtosis]},
            "massive": {"top": [[4, 3, 2], [kurtosis, 3, 2]]},
            "range": {"min": -kurtosis * 2, "max": 8.0},
        },
        "quantize": {"bits": bits},
        "lengths": {
            "train_length": 32,
            "lengths": {
                str(32 * m): {
                    "multiple": m,
                    "bits_per_byte": 2 + sink * m,
                    "by_document": {"0": 1 + 0.99 * sink * m, "5": 3 + 1.01 * sink * m},
                    "loss_tail": 3.0,
                    "curve": curve,
                }
                for m in (1, 4, 16)
            },
            "rescaled": {},
        },
        "harness": {
            "tasks": {
                "order": {
                    "chance": 0.5,
                    "metrics": {"acc": {"value": 0.5 + sink / 8, "stderr": 0.021, "higher_is_better": True}},
                }
            },
            "headline": {"order": "acc"},
        },
        "heatmaps": {
            "prompt": "To be",
            "pieces": ["<s>", "To", " be"],
            "pool": 1,
            "layers": [
                {"layer": layer, "mechanism": "softmax", "window": None, "heads": panels} for layer in (0, 1)
            ],
        },
    }
    return {
        name: {
            "analysis": name,
            "subject": {
                "name": "x",
                "label": "softmax",
                "checkpoint": "f" * 64,
                "architecture": "a" * 16,
                "step": 20,
            },
            "protocol": PROTOCOL | ({"residual_limit": 1e-3} if name == "heatmaps" else {}),
            "results": found[name],
        }
        for name in found
    }


def run(name: str, label: str, bits: float, sink: float = 0.4, **changes: object) -> Measured:
    """A run of twenty steps with every analysis."""
    log = [
        {"step": 0, "validation_loss": 6.9, "bits_per_byte": bits + 2},
        {"step": 10, "loss": 4.0, "tokens": 5120, "tokens_per_second": 910.0},
        {"step": 20, "loss": 3.0, "tokens": 10240, "tokens_per_second": 920.0},
        {"step": 20, "validation_loss": 3.1, "bits_per_byte": bits},
    ]
    made = Measured(
        name=name,
        label=label,
        path=f"runs/{name}",
        step=20,
        checkpoint="f" * 64,
        train_length=32,
        parameters=1_234_567,
        results=results(sink, 10 * bits, zeros=0.25 if label == "softpick" else 0.0),
        missing={},
        metrics=log,
        config={"name": name, "seed": 1, "model": {"attention": label, "n_layer": 2}},
        record={
            "data": "da" * 32,
            "tokenizer": "cd" * 32,
            "command": ["train.py", "x.yaml"],
            "versions": {"torch": "2.13"},
        },
    )
    return replace(made, **changes)


def without(measured: Measured, name: str) -> Measured:
    kept = {kind: result for kind, result in measured.results.items() if kind != name}
    return replace(measured, results=kept, missing={name: "not measured"})


def three_runs() -> list[Measured]:
    return [
        run("base", "softmax", 1.5),
        run("pick", "softpick", 1.4567, sink=0.04),
        run("long", "softmax*1,swat*3", 1.61, sink=0.2),
    ]


@pytest.fixture
def runs() -> list[Measured]:
    return three_runs()


@pytest.fixture(scope="module")
def page() -> str:
    """The page of `runs`."""
    return page_of(three_runs())


def page_of(runs: list[Measured], title: str = "A report") -> str:
    return render(Report(title, runs, {"python": "3.11", "commit": "abc"}))


class Reader(HTMLParser):
    """Collects the tags of a page, and the text of the cells of each table row."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def test_the_page_needs_nothing_but_itself(page):
    reader = Reader(page)
    assert not reader.all("link")
    assert not [tag for tag in reader.all("script") if "src" in tag]
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            assert re.match(r"#|data:image/png;base64,|None$", str(attributes.get(name)))
    assert not re.search(r"https?://|@import|//cdn|url\((?!#)", page)
    assert len(page.encode()) < 4e6


def test_ids_are_unique_and_every_reference_has_its_target(page):
    names = [attributes["id"] for _, attributes in Reader(page).tags if "id" in attributes]
    assert len(set(names)) == len(names)
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert wanted <= set(names)


def test_every_table_has_a_row_for_each_run_with_the_numbers_of_the_data_file(runs, page):
    data = json.loads(Report("A report", runs, {}).json())
    reader = Reader(page)
    for place, measured in enumerate(runs):
        mine = [row for row in reader.rows if row and row[0].strip() == measured.name]
        groups = list(dict.fromkeys(column["group"] for column in data["columns"]))
        assert len(mine) == len(groups) == 6
        shown = [cell.strip() for row in mine for cell in row]
        for column in data["columns"]:
            assert column["cells"][place]["text"] in shown
    by_key = {column["key"]: column["cells"] for column in data["columns"]}
    assert by_key["bits_per_byte"][1] == {
        "value": 1.4567,
        "text": "1.4567",
        "best": False,
        "missing": None,
        "outdated": None,
    }
    assert by_key["parameters"][0]["text"] == "1.23M"
    assert by_key["sink_raw"][0]["text"] == "40.0%"
    assert by_key["largest"][2]["text"] == "32.2"
    assert by_key["speed"][0]["text"] == "915 [910 to 920]"
    assert by_key["order_acc"][0]["text"] == "0.550"


def test_the_data_file_holds_the_result_files(runs):
    data = json.loads(Report("A report", runs, {}).json())
    assert data["runs"][1]["results"] == json.loads(json.dumps(dict(runs[1].results)))
    assert data["findings"] == findings(runs)


def test_columns_can_be_sorted(runs, page):
    reader = Reader(page)
    heads = [tag for tag in reader.all("th") if "aria-sort" in tag]
    assert len(heads) == len(columns(runs)) + 6 + 1
    values = [tag["data-sort"] for tag in reader.all("td", class_="number")]
    assert len(values) == len(columns(runs)) * len(runs)
    assert all(float(str(value)) is not None for value in values)
    assert len(reader.all("tr", data_run="2")) == 6


@pytest.mark.parametrize(
    ("key", "best"),
    [("bits_4x", [1]), ("bits_per_byte", []), ("order_acc", []), ("kurtosis", []), ("zeros", [])],
)
def test_the_best_value_is_marked_where_a_column_ranks(runs, key, best):
    column = next(column for column in columns(runs) if column.key == key)
    assert [place for place, cell in enumerate(cells(column, runs)) if cell.best] == best


def test_values_that_read_the_same_are_equally_good(runs):
    runs[0] = run("base", "softmax", 1.5, sink=0.040001)
    column = next(column for column in columns(runs) if column.key == "bits_4x")
    assert [cell.best for cell in cells(column, runs)] == [True, True, False]
    assert not any(cell.best for cell in cells(column, runs[:2]))


def test_numbers_obtained_differently_are_not_ranked(runs):
    other = copy.deepcopy(dict(runs[2].results))
    other["activations"]["protocol"]["settings"] = {"sequences": 9}
    runs[2] = replace(runs[2], results=other)
    column = next(column for column in columns(runs) if column.key == "kurtosis")
    assert not any(cell.best for cell in cells(column, runs))
    page = page_of(runs)
    assert page.count("not alike") == 2
    assert "measured with different settings" in page
    assert not any("kurtosis" in sentence for sentence in findings(runs))
    assert any(check.holds is False and "activations: settings" in check.detail for check in checks(runs))


@pytest.mark.parametrize("name", ["sinks", "activations", "quantize", "lengths", "harness", "heatmaps"])
def test_what_was_not_measured_is_shown_as_missing(runs, name):
    runs[1] = without(runs[1], name)
    page = page_of(runs)
    reader = Reader(page)
    absent = reader.all("td", class_="number missing", title="not measured", data_sort="")
    ranked = [column for column in columns(runs) if column.source == name]
    assert len(absent) == len(ranked)
    assert bool(ranked) == (name != "heatmaps")
    assert f"pick: not measured: {name}." in "".join(reader.text)
    assert any(name in sentence for sentence in findings(runs) if sentence.startswith("Missing"))


def test_a_report_of_nothing_invents_nothing():
    nothing = {
        "results": {},
        "metrics": [],
        "missing": {"sinks": "not measured"},
        "config": None,
        "record": None,
    }
    bare = run("bare", "softmax", 1.5, **nothing)
    page = page_of([bare])
    assert "not recorded" in page
    assert "not measured" in page
    assert "Heatmaps: not measured for any run" in page
    assert findings([bare]) == ["Missing for at least one run: sinks."]
    known = [column.key for column in columns([bare]) if cells(column, [bare])[0].value is not None]
    assert known == ["parameters"]


def test_text_from_runs_is_escaped(runs):
    evil = "<b>x</b>"
    script = "</script><script>alert(1)</script>"
    mischief = copy.deepcopy(dict(runs[0].results))
    mischief["heatmaps"]["results"]["pieces"] = ["<s>", script, '$\\frac{1}{2}$ #010203 id="x"']
    mischief["heatmaps"]["results"]["prompt"] = script
    mischief["sinks"]["protocol"] = PROTOCOL | {"text": {"source": script}}
    runs[0] = replace(runs[0], name=evil, label=evil, results=mischief, config={"seed": script})
    page = page_of(runs, title=evil)
    assert "<b>x" not in page
    assert "alert(1)</script>" not in page
    assert len(Reader(page).all("script")) == len(Reader(page_of(runs[1:] + runs[1:2])).all("script"))
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_the_same_input_gives_the_same_page(runs, page):
    assert page_of(runs) == page
    assert Report("a", runs, {}).json() == Report("a", copy.deepcopy(runs), {}).json()


def test_a_run_has_one_colour_in_all_figures(page):
    for colour in ("#0072b2", "#d55e00", "#009e73"):
        assert page.count(f"background:{colour}") > 3
        assert page.count(f"stroke: {colour}") > 8
    assert "#cc79a7" not in page
    assert "#010203" not in page
    assert page.count("currentColor") > 100


def test_heatmaps_carry_their_residual_tokens_and_weights(runs, page):
    found = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert [shown["name"] for shown in found["runs"]] == ["base", "pick", "long"]
    for measured, shown in zip(runs, found["runs"], strict=True):
        file = measured.results["heatmaps"]["results"]
        assert (shown["pieces"], shown["layers"]) == (file["pieces"], file["layers"])
    assert "The largest of all 12 heads is 1.5e-07; more than 0.001 is refused" in page
    assert "different prompts" not in page
    other = copy.deepcopy(dict(runs[2].results))
    other["heatmaps"]["results"]["prompt"] = "Not to be"
    assert "different prompts" in page_of([*runs[:2], replace(runs[2], results=other)])


def test_heatmaps_of_an_older_layout_count_as_missing(runs):
    old = copy.deepcopy(dict(runs[0].results))
    del old["heatmaps"]["results"]["pool"]
    runs[0] = replace(runs[0], results=old)
    found = re.search(r'<script type="application/json">(.*?)</script>', page_of(runs), re.S)[1]
    assert [shown["name"] for shown in json.loads(found)["runs"]] == ["pick", "long"]


def test_the_finding_follows_the_numbers(runs):
    first, *others = findings(runs)
    assert first == (
        "With one seed each, which says nothing of other seeds, pick reaches the lowest loss on held-out text, 1.4567 "
        "bits per byte, against 1.5000 of base (-2.9%)."
    )
    assert any("40.0% of heads of base; pick 4.0%, long 20.0%" in sentence for sentence in others)
    assert any("renormalised" in sentence and "base 20.0%" in sentence for sentence in others)
    assert any("kurtosis" in sentence and "14.6 (pick) to 16.1 (long)" in sentence for sentence in others)
    turned = [replace(one, name=name) for one, name in zip(runs, ("long", "base", "pick"), strict=True)]
    assert "seeds, base reaches the lowest" in findings(turned)[0]
    assert findings(runs[:1])[0] == "base reaches 1.5000 bits per byte on held-out text."


def test_unfair_comparisons_are_named(runs):
    assert [check.holds for check in checks(runs)] == [True] * 7 + [False]
    assert checks(runs)[-1].detail == (
        "A single seed: differences from it are not tested against other seeds."
    )
    unlike = replace(
        runs[1],
        parameters=99,
        record={"data": "other"},
        config={"name": "pick", "seed": 2, "model": {"attention": "softpick", "n_layer": 3}},
    )
    found = {check.claim.partition(" (")[0]: check for check in checks([runs[0], unlike])}
    assert found["The same data"].holds is False
    assert found["The same number of parameters, to 1%"].detail.startswith("pick 99, base 1,234,567")
    few = {check.claim: check for check in checks([runs[0], replace(runs[1], parameters=1_234_583)])}
    assert few["The same number of parameters, to 1%"] == Check(
        True, "The same number of parameters, to 1%", "base 1,234,567, pick 1,234,583 (1.3e-05 more)"
    )
    assert found["Configs that differ in the attention mechanism only"].detail == "model.n_layer: 2, 3"
    assert found["The same seeds"].detail == "softmax 1; softpick 2"
    assert "do not compare" in findings([runs[0], unlike])[0]
    foreign = replace(runs[1], config=None, record=None)
    assert {check.holds for check in checks([runs[0], foreign])} == {True, False, None}


def test_row_statistics_are_compared_at_one_length(runs):
    assert comparison.sink_length(runs) == "32"
    assert comparison.sink_length([*runs, replace(runs[0], train_length=64)]) == "32"
    assert comparison.sink_length([without(runs[0], "sinks")]) is None


def test_an_analysis_that_the_report_does_not_know_is_shown(runs, monkeypatch):
    strange = SimpleNamespace(__doc__="Strangeness.", run=None, row=lambda found: {"oddity": found["odd"]})
    known = analysis.analyses() | {"strange": analysis.Analysis("strange", strange)}
    monkeypatch.setattr(analysis, "analyses", lambda: known)
    file = {"protocol": {"settings": {}}, "results": {"odd": 0.125}}
    runs[0] = replace(runs[0], results={**runs[0].results, "strange": file})
    text = page_of(runs)
    assert "<h3>Strange</h3>" in text
    assert ">0.125<" in text
    assert "Strangeness." in text


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `open_subject` would give, as far as a report asks."""
    monkeypatch.setattr(provenance, "protocol", lambda module: {"code": PROTOCOL["code"]})
    results = tmp_path / "nano" / "eval"
    for name, result in globals()["results"](0.4, 12.0).items():
        analysis.write(results / f"{name}.json", analysis.sealed(result))
    path = tmp_path / "nano"
    lines = [
        '{"step": 10, "loss": 4.0}',
        '{"step": 20, "loss": 3.0}',
        '{"step": 30, "loss": 2.0}',
        '{"step": 4',
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    (path / "config.yaml").write_text("name: nano\nseed: 7\n")
    (path / "run.json").write_text('{"data": "dada"}')
    return SimpleNamespace(
        name="nano", label="softmax", path=path, step=20, checkpoint="f" * 64, architecture="a" * 16, train_length=32,
        results=results, network=torch.nn.Linear(3, 2), protocol=lambda: {"text": PROTOCOL["text"]},
    )  # fmt: skip


def test_a_run_is_read_from_its_folder(subject):
    found = report.measured(subject, "nano")
    assert set(found.results) == {"sinks", "activations", "quantize", "lengths", "harness", "heatmaps"}
    assert found.logged("loss") == [(10, 4.0), (20, 3.0)]
    assert found.config["seed"] == 7
    assert found.record["data"] == "dada"
    assert found.parameters == 8


def test_results_of_another_checkpoint_are_not_shown(subject):
    subject.checkpoint = "e" * 64
    found = report.measured(subject, "nano")
    assert not found.results
    assert found.missing["sinks"] == "measured on another checkpoint (step 20)"


def test_the_report_and_its_data_are_written(subject, tmp_path):
    subject_too = SimpleNamespace(**{**vars(subject), "path": tmp_path / "elsewhere" / "nano"})
    cells = report.run_all(
        [subject, subject_too], Settings(out=str(tmp_path / "new" / "report.html"), title="Two")
    )
    assert cells["runs"] == 2
    data = json.loads((tmp_path / "new" / "report.json").read_text())
    assert [entry["name"] for entry in data["runs"]] == [str(subject.path), str(subject_too.path)]
    assert data["runs"][1]["missing"] == {
        "training": "not logged",
        "bottleneck": "not measured",
        "passkey": "not measured",
        "synthetic": "not measured",
    }
    assert "<title>Two</title>" in (tmp_path / "new" / "report.html").read_text()
    report.run_all([subject], Settings())
    assert (tmp_path / "report.html").is_file()


def test_mistakes_are_named(subject, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"must end in \.html, got page\.txt"):
        report.before(Settings(out="page.txt"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        report.run_all([subject], Settings(out=str(tmp_path / "file" / "report.html")))
    (subject.path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match=r"config\.yaml is not readable YAML"):
        report.measured(subject, "nano")
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the packages matplotlib, jinja2, scipy: pip install"):
        report.before(Settings())


def test_methods_of_quantization_beyond_rounding_have_a_table(runs):
    found = copy.deepcopy(dict(runs[0].results))
    found["quantize"]["results"] |= {"gptq": {"3": {"perplexity_ratio": 1.0234}}}
    runs[0] = replace(runs[0], results=found)
    column = next(column for column in columns(runs) if column.group == "Quantize")
    assert (column.title, column.unit, column.source) == ("gptq 3", "× perplexity", "quantize")
    assert [cell.text for cell in cells(column, runs)] == ["1.023", "–", "–"]


def test_passkeys_tasks_and_bottlenecks_are_shown(runs):
    answered = {"accuracy": 0.9, "stderr": 0.09}
    lengths = {
        "64": {"multiple": 1, "chance": 0.1, **answered},
        "128": {"multiple": 2, "chance": 0.1, **answered},
    }
    found = {
        "passkey": {"lengths": {"3072": {"accuracy": 0.9, "interval": [0.6, 0.98]}}, "skipped": []},
        "synthetic": {"task": "copy", "train_length": 64, "lengths": lengths, "skipped": []},
        "bottleneck": {
            "shape": {},
            "spectrum": {
                "values": [4.0, 1.0],
                "effective_rank": 1.7,
                "stable_rank": 1.1,
                "singular_entropy": 0.2,
            },
            "anisotropy": {"states": 0.3, "head": 0.1},
            "truncation": {"rank": [1, 2], "loss": [2.0, 1.0], "delta_loss": [1.0, 0.0]},
        },
    }
    files = {name: {"protocol": {}, "results": results} for name, results in found.items()}
    untrained = {"synthetic": {"protocol": {}, "results": {"task": None, "skipped": [{"reason": "no"}]}}}
    runs[0] = replace(runs[0], results={**runs[0].results, **files})
    runs[1] = replace(runs[1], results={**runs[1].results, **untrained})
    texts = {column.key: cells(column, runs)[0].text for column in columns(runs)}
    assert texts["passkey_passkey in 3072"] == "0.900 [0.600 to 0.980]"
    assert texts["synthetic_copy at 2×"] == "0.900 ± 0.090"
    assert texts["bottleneck_effective rank"] == "1.70"
    page = page_of(runs)
    for title in ("Task copy", "Singular values of the output head", "Loss with a truncated head"):
        assert f'aria-label="{title}"' in page


def test_an_analysis_shows_its_own_numbers_and_plots(runs, monkeypatch):
    """Two runs of an analysis that this project does not have."""

    def numbers(found: dict) -> list[Number]:
        return [Number("oddity", found["odd"], "per day", better="lower", digits=2, error=0.01)]

    def plots(found: dict) -> list[Plot]:
        return [
            Plot(
                "Oddity by day", "As it was.", "day", "oddity", [Line([1, 2], [found["odd"], 1])], ticks=True
            )
        ]

    strange = SimpleNamespace(__doc__="Strangeness.", run=None, numbers=numbers, plots=plots)
    known = analysis.analyses() | {"strange": analysis.Analysis("strange", strange)}
    monkeypatch.setattr(analysis, "analyses", lambda: known)
    for place, odd in enumerate((0.125, 0.5)):
        file = {"protocol": {"settings": {}}, "results": {"odd": odd}}
        runs[place] = replace(runs[place], results={**runs[place].results, "strange": file})
    runs[2] = replace(runs[2], missing={"strange": "not measured"})
    column = next(column for column in columns(runs) if column.key == "strange_oddity")
    assert [(cell.text, cell.best) for cell in cells(column, runs)] == [
        ("0.12 ± 0.01", True),
        ("0.50 ± 0.01", False),
        ("–", False),
    ]
    text = page_of(runs)
    assert 'section id="strange"' in text
    assert 'href="#strange"' in text
    assert 'aria-label="Oddity by day"' in text
    assert "As it was. Missing: long: not measured." in text


def test_a_browser_sorts_all_tables_and_shows_the_heatmaps(runs, visit, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(runs))
    opened = visit(file)

    def orders() -> set[str]:
        tables = opened.locator("table.sortable").all()
        return {
            "".join(row.get_attribute("data-run") for row in table.locator("tbody tr").all())
            for table in tables
        }

    assert orders() == {"012"}
    button = opened.locator("[data-key=bits_per_byte] button")
    button.click()
    assert orders() == {"102"}
    button.click()
    assert orders() == {"201"}
    assert opened.locator("figure.map").count() == 3
    assert "1.5e-7" in opened.locator("figure.map .caption").first.text_content()
    # The report has other readers of the keyboard and its own anchors.
    opened.keyboard.press("l")
    assert "#" not in opened.url
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.emulate_media(media="print")
    assert not opened.locator("nav").is_visible()
    assert opened.locator("figure.map canvas").first.is_visible()
