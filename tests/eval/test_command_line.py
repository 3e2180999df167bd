"""The command line of `python -m eval`: what it prints, what it refuses, and what it imports for that."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.command import guarded
from common.errors import InputError
from eval import catalogue, provenance, results
from eval.__main__ import main, overview
from eval.subject import expand
from tests.eval.conftest import RunMaker

pytestmark = pytest.mark.slow

VOWELS = """
\'\'\'How many vowels the name has.\'\'\'
from dataclasses import dataclass
from eval.analysis import Analysis, Measurement

@dataclass(frozen=True)
class Settings:
    vowels: str = "aeiou"

@dataclass(frozen=True)
class Result:
    count: int

def run(subject, settings):
    return Measurement(Result(sum(letter in settings.vowels for letter in subject.name)))

ANALYSIS = Analysis(settings=Settings, result=Result, run=run, row=vars)
"""


def test_the_analyses_are_the_files_of_their_folder() -> None:
    folder = provenance.ROOT / "eval" / "analyses"
    assert catalogue.names() == sorted(path.stem for path in folder.glob("[!_]*.py"))
    assert list(catalogue.every()) != catalogue.names()
    for name in (*catalogue.names(), "report", "all"):
        assert f"  {name} " in overview()
    with pytest.raises(InputError, match="unknown analysis 'sink'; did you mean 'sinks'"):
        main(["sink"])


def test_one_file_adds_an_analysis(
    make_run: RunMaker, tmp_path: Path, add_analysis: Any, capsys: Any
) -> None:
    path = make_run("fresh", folder=tmp_path)
    add_analysis("vowels", VOWELS)
    main(["vowels", str(path)])
    assert "How many vowels the name has." in overview()
    assert results.read(path / "eval" / "vowels.json")["results"] == {"count": 1}
    main(["vowels", str(path), "--vowels", "fresh"])
    assert results.read(path / "eval" / "vowels.json")["results"] == {"count": 5}
    assert "run    mechanism  count" in capsys.readouterr().out


def test_the_analysis_of_the_docs_works(make_run: RunMaker, tmp_path: Path, add_analysis: Any) -> None:
    page = (provenance.ROOT / "docs" / "evaluation.md").read_text()
    path = make_run("fresh", folder=tmp_path)
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "ANALYSIS =" in block
    )
    add_analysis("diagonal", code)
    main(["diagonal", str(path), "--length", "16"])
    found = results.read(path / "eval" / "diagonal.json")["results"]["layers"]
    assert len(found) == 2
    assert all(0 < weight < 1 for weight in found)


IMPORTS = """
import sys
EXTRA = ("transformers", "lm_eval", "matplotlib", "jinja2", "scipy", "datasets", "hqq")
for name in EXTRA:
    sys.modules[name] = None
from common.command import guarded
from eval.__main__ import main

def code(*arguments):
    try:
        guarded(lambda: main(arguments))
    except SystemExit as stop:
        return stop.code

assert code("--help") == 0
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert code("sinks", "--help") == 0
assert not {"eval.analyses.harness", "eval.report.page", "eval.subjects.huggingface"} & sys.modules.keys()
for name in "sinks activations bottleneck quantize lengths passkey synthetic harness heatmaps".split():
    assert code(name, "nowhere") == 2
assert code("report", "nowhere") == 2
"""


def test_without_the_extra_every_command_works_up_to_the_point_that_needs_it() -> None:
    """The packages of the extra cannot be imported; those that are needed are named in one line."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=provenance.ROOT
    )
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    assert [line.startswith("error: no run at nowhere") for line in errors] == [True] * 7 + [False] * 3
    needed = ("lm-eval", "matplotlib and jinja2", "matplotlib, jinja2, scipy")
    for line, packages in zip(errors[7:], needed, strict=True):
        assert packages in line
        assert "pip install -e '.[eval]'" in line


def test_a_folder_of_runs_stands_for_the_runs_in_it(make_run: RunMaker, tmp_path: Path) -> None:
    runs = [str(make_run(name, folder=tmp_path)) for name in ("b", "a")]
    (tmp_path / "report.html").write_text("")
    (tmp_path / "notes").mkdir()
    assert expand([str(tmp_path)]) == sorted(runs)
    assert expand([runs[0], "package:x", "nowhere"]) == [runs[0], "package:x", "nowhere"]
    assert expand([str(tmp_path / "notes")]) == [str(tmp_path / "notes")]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_option_takes_a_run(place: int, make_run: RunMaker, tmp_path: Path) -> None:
    first, second = (str(make_run(name, folder=tmp_path)) for name in ("first", "second"))
    parts = [["--lengths", "16"], ["--sequences", "2", "--no-train-length"]]
    parts.insert(place, [first])
    results = tmp_path / "results"
    main(["sinks", *(word for part in parts for word in part), "--results", str(results), second])
    for name in ("first", "second"):
        found = json.loads((results / name / "sinks.json").read_text())
        assert list(found["results"]["lengths"]) == ["16"]


def test_the_command_line_compares_runs(make_run: RunMaker, tmp_path: Path, capsys: Any) -> None:
    paths = [str(make_run(name, folder=tmp_path, attention=name)) for name in ("softmax", "softpick")]
    main(["activations", *paths, "--sequences", "3"])
    out = capsys.readouterr().out
    assert "activations: Kurtosis of the residual stream" in out
    assert "softpick  softpick " in out
    main(["activations", *paths, "--sequences", "3"])
    assert capsys.readouterr().out.count("reused") == 2
    main(["activations", *paths, "--sequences", "3", "--fresh", "--results", str(tmp_path / "all")])
    assert (tmp_path / "all" / "softpick" / "activations.json").is_file()


def test_help(capsys: Any) -> None:
    main([])
    assert "sinks" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["sinks", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--lengths N,N lengths of the windows (in tokens; default: 64,512)" in shown
    with pytest.raises(SystemExit):
        main(["quantize", "--help"])
    assert "what to measure (any of rtn, hqq, gptq," in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sinsk", "RUN"], "unknown analysis 'sinsk'; did you mean 'sinks'"),
        (["sinks"], "the following arguments are required: RUN"),
        (["sinks", "RUN", "--sequence"], "expected one argument"),
        (["sinks", "RUN", "--lengths", "many"], "must be an integer, got 'many'"),
        (["sinks", "RUN", "--sequences", "0"], "at least one sequence"),
        (["sinks", "RUN", "--epsilon", "0.1"], "unrecognized arguments: --epsilon"),
        (["quantize", "RUN", "--bits", "0"], "1 to 8 bits"),
        (["lengths", "RUN", "--multiples", "0"], "multiples"),
        (["heatmaps", "RUN", "--layers", "first"], "must be an integer, got 'first'"),
        (["harness", "RUN", "--tasks", "cloz"], "did you mean cloze"),
        (["activations", "RUN", "RUN"], "give each run once"),
        (["activations", "nowhere"], "no run at nowhere"),
        (["activations", "RUN", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["activations", "RUN", "--step", "7"], "no checkpoint of step 7"),
        (["activations", "RUN", "--length", "100000"], "too few for one window"),
        (["activations", "RUN", "--length", "200"], "exceed max_length 128"),
        (["activations", "RUN", "--text", "tragedy"], "tragedy"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, run_path: Path, capsys: Any
) -> None:
    given = [str(run_path) if part == "RUN" else part for part in arguments]
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: main(given))
    assert stop.value.code == 2
    *notices, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert len(error) < 400
    assert all(notice.endswith("which is read now") for notice in notices)


def test_every_analysis_of_this_part_runs_by_default(make_run: RunMaker, tmp_path: Path, capsys: Any) -> None:
    path = make_run("whole", folder=tmp_path, attention="softmax,lssar")
    for name in ("sinks", "activations", "quantize", "lengths"):
        main([name, str(path)])
        result = results.read(path / "eval" / f"{name}.json")
        json.dumps(result, allow_nan=False)
        assert result["results"]
