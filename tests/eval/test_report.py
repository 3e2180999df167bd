"""The page and the data file of a report: what they show, and what they leave out."""

import copy
import json
import re
from dataclasses import replace

import pytest

from eval.analyses import sinks
from eval.report import pairs
from eval.report.collection import Measured, shown
from eval.report.comparison import cells, columns
from eval.report.contents import Report
from eval.report.findings import Check, checks, findings
from tests.eval.examples import PROTOCOL, Reader, page_of, run, score, three_runs, without

pytestmark = pytest.mark.slow


@pytest.fixture
def runs() -> list[Measured]:
    return three_runs()


@pytest.fixture(scope="module")
def page() -> str:
    """The page of `runs`."""
    return page_of(three_runs())


def test_the_page_needs_nothing_but_itself(page):
    reader = Reader(page)
    assert not reader.all("link")
    assert not [tag for tag in reader.all("script") if "src" in tag]
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            assert re.match(r"#|data:image/png;base64,|None$", str(attributes.get(name)))
    # Neither the name of the library that draws curves nor that of a format loads anything.
    for name in ("/*! https://github.com/leeoniya/uPlot", 'xmlns="http://www.w3.org/2000/svg"'):
        page = page.replace(name, "")
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
    assert [measured["name"] for measured in data["runs"]] == ["base", "long", "pick"]
    for place, measured in enumerate(sorted(runs, key=lambda run: run.name)):
        mine = [row for row in reader.rows if row and row[0].split()[:1] == [measured.name]]
        groups = list(dict.fromkeys(column["group"] for column in data["columns"]))
        assert len(mine) == len(groups) == 6
        shown = [cell.strip() for row in mine for cell in row]
        for column in data["columns"]:
            assert column["cells"][place]["text"] in shown
    by_key = {column["key"]: column["cells"] for column in data["columns"]}
    assert by_key["bits_per_byte"][2] == {
        "value": 1.4567,
        "text": "1.4567",
        "missing": None,
        "outdated": None,
    }
    assert by_key["parameters"][0]["text"] == "1.23M"
    assert by_key["sink_raw"][0]["text"] == "40.0%"
    assert by_key["largest"][1]["text"] == "32.2"
    assert by_key["logged_speed"][0]["text"] == "915 [910 to 920]"
    assert by_key["order_acc"][0]["text"] == "0.550"


def test_the_data_file_holds_the_result_files(runs):
    data = json.loads(Report("A report", runs, {}).json())
    assert data["runs"][2]["results"] == json.loads(json.dumps(dict(runs[1].results)))
    assert data["findings"] == findings(runs)


def test_columns_can_be_sorted(runs, page):
    reader = Reader(page)
    heads = [tag for tag in reader.all("th") if "aria-sort" in tag]
    # The forest with six numbers, six tables of mechanisms and as many of runs.
    assert len(heads) == (6 + 1) + 2 * (len(columns(runs)) + 6)
    values = [tag["data-sort"] for tag in reader.all("td", class_="number")]
    assert all(float(str(value)) is not None for value in values)
    assert len(reader.all("tr", data_run="2")) == 6
    assert len(reader.all("tr", data_variant="softpick")) == 6 + 1


def test_every_heading_explains_its_number(page):
    buttons = [tag for tag in Reader(page).all("button") if "title" in tag]
    assert len(buttons) > 40
    assert all(len(str(tag["title"])) > 20 for tag in buttons)


def test_numbers_obtained_differently_are_not_ranked(runs):
    other = copy.deepcopy(dict(runs[2].results))
    other["activations"]["protocol"]["settings"] = {"sequences": 9}
    runs[2] = replace(runs[2], results=other)
    column = next(column for column in columns(runs) if column.key == "kurtosis")
    assert [paired.group for paired in pairs.compare(column, runs)] == ["softpick"]
    page = page_of(runs)
    assert page.count(">not alike<") == 2 * 2 + 1
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
    assert len(absent) == 2 * len(ranked)
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
    assert findings([bare]) == []
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
    names = {"#0072b2": "softmax", "#d55e00": "softmax*1,swat*3", "#009e73": "softpick"}
    charts = [json.loads(found) for found in re.findall(r'json">(\{"curves".*?)</script>', page)]
    curves = [curve for chart in charts for curve in chart["curves"]]
    assert len(charts) > 8
    assert {(curve["colour"], curve["variant"]) for curve in curves} == set(names.items())
    for colour in names:
        assert page.count(f"solid {colour}") > 10
    assert "#cc79a7" not in page
    assert "#010203" not in page
    assert page.count("currentColor") > 20


def test_heatmaps_carry_their_residual_tokens_and_weights(runs, page):
    scripts = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    (found,) = [script for script in map(json.loads, scripts) if "palettes" in script]
    assert [entry["name"] for entry in found["runs"]] == ["base", "long", "pick"]
    for measured, entry in zip(sorted(runs, key=lambda run: run.name), found["runs"], strict=True):
        file = measured.results["heatmaps"]["results"]
        assert (entry["pieces"], entry["layers"]) == (file["pieces"], file["layers"])
    assert "The largest of all 12 heads is 1.5e-07; more than 0.001 is refused" in page
    assert "different prompts" not in page
    other = copy.deepcopy(dict(runs[2].results))
    other["heatmaps"]["results"]["prompt"] = "Not to be"
    assert "different prompts" in page_of([*runs[:2], replace(runs[2], results=other)])


def test_the_finding_follows_the_numbers(runs):
    first, *others = findings(runs)
    assert first == (
        "With one seed each, which says nothing of other seeds, pick reaches the lowest loss on held-out text, 1.4567 "
        "bits per byte, against 1.5000 of base (-2.9%)."
    )
    assert any("40.0% of heads of softmax; softpick 4.0%" in sentence for sentence in others)
    assert any("renormalised" in sentence and "softmax 20.0%" in sentence for sentence in others)
    assert any(
        "kurtosis" in sentence and "14.6 (softpick) to 16.1 (softmax*1" in sentence for sentence in others
    )
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
    assert found["The same number of parameters"].holds is False
    assert found["The same number of parameters"].detail.endswith("% more: pick 99, base 1,234,567")
    few = {check.claim: check for check in checks([runs[0], replace(runs[1], parameters=1_234_583)])}
    assert few["The same number of parameters"] == Check(
        True, "The same number of parameters", "the same within 0.0013 %: base 1,234,567, pick 1,234,583"
    )
    assert found["Configs that differ in the attention mechanism only"].detail == "model.n_layer: 2, 3"
    assert found["The same seeds"].detail == "softmax 1; softpick 2"
    assert "do not compare" in findings([runs[0], unlike])[0]
    foreign = replace(runs[1], config=None, record=None)
    assert {check.holds for check in checks([runs[0], foreign])} == {True, False, None}


def test_row_statistics_are_compared_at_one_length(runs):
    def length(runs: list[Measured]) -> str | None:
        return sinks.shared_length(shown(runs, "sinks"))

    assert length(runs) == "32"
    assert length([*runs, replace(runs[0], train_length=64)]) == "32"
    assert length([without(runs[0], "sinks")]) is None


STRANGE = """
\'\'\'Strangeness.\'\'\'
from dataclasses import dataclass
from eval.analysis import Analysis, Measurement
from eval.display import Line, Number, Plot, columns_of, overlaid

@dataclass(frozen=True)
class Settings:
    pass

@dataclass(frozen=True)
class Result:
    odd: float

def run(subject, settings):
    return Measurement(Result(1.0))

def row(result):
    return {"oddity": result.odd}

def numbers(result):
    return [Number("oddity", result.odd, "per day", better="lower", digits=2, error=0.01)]

def plots(result):
    return [Plot("Oddity by day", "As it was.", "day", "oddity", [Line([1, 2], [result.odd, 1])], ticks=True)]

ANALYSIS = Analysis(settings=Settings, result=Result, run=run, row=row)
"""


def test_an_analysis_that_the_report_does_not_know_is_shown(runs, add_analysis):
    add_analysis("strange", STRANGE)
    file = {"protocol": {"settings": {}}, "results": {"odd": 0.125}}
    runs[0] = replace(runs[0], results={**runs[0].results, "strange": file})
    text = page_of(runs)
    assert "<h3>Strange</h3>" in text
    assert ">0.125<" in text
    assert "Strangeness." in text


def test_methods_of_quantization_beyond_rounding_have_a_table(runs):
    found = copy.deepcopy(dict(runs[0].results))
    found["quantize"]["results"] |= {"gptq": {"3": score(perplexity_ratio=1.0234)}}
    runs[0] = replace(runs[0], results=found)
    column = next(column for column in columns(runs) if column.group == "Quantize")
    assert (column.title, column.unit, column.source) == ("gptq 3", "× perplexity", "quantize")
    assert [cell.text for cell in cells(column, runs)] == ["1.023", "–", "–"]


def test_passkeys_tasks_and_bottlenecks_are_shown(runs):
    answered = {"accuracy": 0.9, "stderr": 0.09, "documents": 9, "answers": 9, "exact": 0.9, "loss": 0.1}
    passed = {
        "garbage": 3072,
        "tokens": 900,
        "tests": 10,
        "accuracy": 0.9,
        "interval": [0.6, 0.98],
        "loss": 0.2,
    }
    lengths = {
        "64": {"multiple": 1, "chance": 0.1, **answered},
        "128": {"multiple": 2, "chance": 0.1, **answered},
    }
    found = {
        "passkey": {"lengths": {"3072": passed}, "skipped": []},
        "synthetic": {"task": "copy", "train_length": 64, "lengths": lengths, "skipped": []},
        "bottleneck": {
            "definitions": {},
            "protocol": {},
            "loss": 1.0,
            "bits_per_byte": 1.0,
            "shape": {"vocabulary": 4, "dimension": 2},
            "spectrum": {
                "values": [4.0, 1.0],
                "effective_rank": 1.7,
                "stable_rank": 1.1,
                "singular_entropy": 0.2,
                "maximum": 0.7,
            },
            "anisotropy": {"states": 0.3, "states_tokens": 9, "head": 0.1, "head_rows": 4, "zero_rows": 0},
            "truncation": {"rank": [1, 2], "loss": [2.0, 1.0], "delta_loss": [1.0, 0.0]},
        },
    }
    files = {name: {"protocol": {}, "results": results} for name, results in found.items()}
    untrained = {
        "synthetic": {
            "protocol": {},
            "results": {"task": None, "skipped": [{"length": None, "multiple": None, "reason": "no"}]},
        }
    }
    runs[0] = replace(runs[0], results={**runs[0].results, **files})
    runs[1] = replace(runs[1], results={**runs[1].results, **untrained})
    texts = {column.key: cells(column, runs)[0].text for column in columns(runs)}
    assert texts["passkey_passkey in 3072"] == "0.900 [0.600 to 0.980]"
    assert texts["synthetic_copy at 2×"] == "0.900 ± 0.090"
    assert texts["bottleneck_effective rank"] == "1.70"
    page = page_of(runs)
    for title in ("Task copy", "Singular values of the output head", "Loss with a truncated head"):
        assert f'aria-label="{title}"' in page


def test_an_analysis_shows_its_own_numbers_and_plots(runs, add_analysis):
    """Two runs of an analysis that this project does not have."""
    declared = (
        "row=row, columns=lambda runs: columns_of(runs, numbers, 'Strange'), "
        "figures=lambda runs: overlaid(runs, plots))"
    )
    add_analysis("strange", STRANGE.replace("row=row)", declared))
    for place, odd in enumerate((0.125, 0.5)):
        file = {"protocol": {"settings": {}}, "results": {"odd": odd}}
        runs[place] = replace(runs[place], results={**runs[place].results, "strange": file})
    runs[2] = replace(runs[2], missing={"strange": "not measured"})
    column = next(column for column in columns(runs) if column.key == "strange_oddity")
    assert [cell.text for cell in cells(column, runs)] == ["0.12 ± 0.01", "0.50 ± 0.01", "–"]
    text = page_of(runs)
    assert 'section id="strange"' in text
    assert 'href="#strange"' in text
    assert 'aria-label="Oddity by day"' in text
    assert "As it was. Missing: long: not measured." in text
