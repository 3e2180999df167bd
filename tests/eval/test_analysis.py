"""Discovery, options, files, caching and the command line."""

import argparse
import json
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from common.command import guarded
from eval import analyses as package
from eval import analysis, provenance
from eval.__main__ import main, overview
from eval.analyses import activations, harness
from eval.analysis import (
    _plain,
    add_options,
    analyses,
    evaluate,
    get,
    read,
    read_options,
    table,
    write,
)
from eval.subjects.opening import open_subject
from models import GPT, ModelError
from tests.eval.conftest import RunMaker, add_checkpoint

SETTINGS = activations.Settings(sequences=3)


@pytest.fixture
def path(make_run: RunMaker, tmp_path: Path) -> Path:
    return make_run("fresh", folder=tmp_path)


@dataclass(frozen=True)
class Options:
    many: tuple[int, ...] = field(default=(1, 2), metadata={"help": "several"})
    one: float = 0.5
    maybe: int | None = None
    flag: bool = True
    some_words: str = "a"


def test_options_come_from_the_fields() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    assert read_options(Options, parser.parse_args([])) == Options()
    given = parser.parse_args(
        ["--many", "3", "4", "--one", "0.25", "--maybe", "7", "--no-flag", "--some-words", "b"]
    )
    assert read_options(Options, given) == Options((3, 4), 0.25, 7, False, "b")
    assert "several (default: 1 2)" in parser.format_help()
    tasks = argparse.ArgumentParser()
    add_options(tasks, harness.Settings)
    read = read_options(harness.Settings, tasks.parse_args(["--tasks", "cloze,order", "piqa"]))
    assert read.tasks == ("cloze", "order", "piqa")
    assert not read.offline


def test_the_analyses_of_this_package() -> None:
    known = analyses()
    assert {"sinks", "activations", "quantize", "lengths", "harness"} <= known.keys()
    together = [item.together for item in known.values()]
    assert together == sorted(together)
    for name in known:
        assert f"  {name} " in overview()
    with pytest.raises(ModelError, match="unknown analysis 'sink'; did you mean 'sinks'"):
        get("sink")


def test_one_file_adds_an_analysis(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "vowels.py").write_text(
        '"""How many vowels the name has."""\n'
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Settings:\n"
        "    vowels: str = 'aeiou'\n"
        "def run(subject, settings):\n"
        "    count = sum(letter in settings.vowels for letter in subject.name)\n"
        "    return {'protocol': {}, 'results': {'count': count}}\n"
        "def row(results):\n"
        "    return results\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "eval.analyses.vowels", raising=False)
    main(["vowels", str(path)])
    assert "How many vowels the name has." in overview()
    assert read(path / "eval" / "vowels.json")["results"] == {"count": 1}
    main(["vowels", str(path), "--vowels", "fresh"])
    assert read(path / "eval" / "vowels.json")["results"] == {"count": 5}
    assert "run    mechanism  count" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "eval.analyses.vowels")


def test_a_result_file(path: Path) -> None:
    subject = open_subject(path)
    result, reused = evaluate(get("activations"), subject, SETTINGS)
    assert not reused
    assert json.loads((path / "eval" / "activations.json").read_text()) == result
    assert result["analysis"] == "activations"
    assert result["subject"] == {
        "name": "fresh",
        "label": "softmax",
        "path": str(path),
        "step": 10,
        "train_length": 32,
        "checkpoint": subject.checkpoint,
        "architecture": subject.architecture,
    }
    protocol = result["protocol"]
    assert protocol["settings"] == {"length": None, "longest": 1024, "sequences": 3, "bos": True}
    assert protocol["text"]["documents"] == len(subject.held_out())
    assert (protocol["dtype"], protocol["device"], protocol["max_length"]) == ("float32", "cpu", 128)
    assert protocol["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert protocol["versions"].keys() == {"python", "numpy", "sentencepiece", "torch", "transformers"}
    assert protocol["windows"]["windows"] == 3
    assert list((path / "eval").iterdir()) == [path / "eval" / "activations.json"]


def test_what_is_known_is_not_computed_again(path: Path) -> None:
    item = get("activations")
    first, _ = evaluate(item, open_subject(path), SETTINGS)
    again, reused = evaluate(item, open_subject(path), SETTINGS)
    assert reused
    assert again == first
    # How much is computed at once is no part of the protocol.
    assert evaluate(item, open_subject(path, batch_tokens=100), SETTINGS)[1]
    assert not evaluate(item, open_subject(path), SETTINGS, fresh=True)[1]


@pytest.mark.parametrize(
    "change", ["settings", "text", "dtype", "checkpoint", "config", "library", "file", "half a file"]
)
def test_whatever_decides_the_number_makes_it_computed_again(
    path: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, settings, options = get("activations"), SETTINGS, {}
    evaluate(item, open_subject(path), settings)
    file = path / "eval" / "activations.json"
    match change:
        case "settings":
            settings = activations.Settings(sequences=4)
        case "text":
            text = tmp_path / "other.txt"
            text.write_text("the queen speaks of night. " * 60)
            options = {"text": str(text)}
        case "dtype":
            options = {"dtype": "bfloat16"}
        case "checkpoint":
            config = open_subject(path).network.plan
            torch.manual_seed(1)
            add_checkpoint(path, 20, GPT(config))
        case "config":
            config = path / "config.yaml"
            config.write_text(config.read_text().replace("attention: softmax", "attention: softpick"))
        case "library":
            now = metadata.version
            monkeypatch.setattr(metadata, "version", lambda name: "0" if name == "numpy" else now(name))
        case "file":
            file.write_text("[]")
        case "half a file":
            file.write_text(file.read_text()[:100])
    assert not evaluate(item, open_subject(path, **options), settings)[1]
    assert evaluate(item, open_subject(path, **options), settings)[1]


@pytest.mark.parametrize(
    "deep",
    [
        "attention/functional.py",
        "attention/mechanisms/softpick.py",
        "attention/kernels/cpu/rows.h",
        "models/rope.py",
        "data/corpora/synthetic.py",
        "eval/subjects/huggingface.py",
    ],
)
def test_an_edit_far_below_makes_it_computed_again(path: Path, copied: Path, deep: str) -> None:
    item = get("activations")
    assert not evaluate(item, open_subject(path), SETTINGS)[1]
    assert evaluate(item, open_subject(path), SETTINGS)[1]
    with (copied / deep).open("a") as file:
        file.write("\n")
    assert not evaluate(item, open_subject(path), SETTINGS)[1]


def test_the_code_of_an_analysis_is_what_it_builds_on_and_no_more(copied: Path) -> None:
    def hashes() -> dict[str, str]:
        return {name: provenance.code(item.module) for name, item in analyses().items()}

    def changed_by(file: str) -> set[str]:
        before = hashes()
        with (copied / file).open("a") as stream:
            stream.write("\n")
        return {name for name, code in hashes().items() if code != before[name]}

    assert changed_by("eval/report/page.py") == {"report"}
    assert changed_by("eval/lm_tasks/adapter.py") >= {"harness"}
    assert not changed_by("eval/quantization/gptq.py") & {"sinks", "harness", "lengths"}
    assert changed_by("eval/subjects/subject.py") == set(analyses())


def test_libraries_count_where_they_are_imported() -> None:
    def libraries(name: str) -> set[str]:
        return provenance.versions(get(name).module).keys() & {"lm_eval", "hqq"}

    assert [libraries(name) for name in ("sinks", "harness", "quantize")] == [set(), {"lm_eval"}, {"hqq"}]


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    value = _plain({"a": torch.tensor([1.0, float("nan")]), 2: (float("inf"), True, None), "p": Path("x")})
    assert value == {"a": [1.0, None], "2": [None, True, None], "p": "x"}
    write(tmp_path / "deep" / "x.json", value)
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == value
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        write(tmp_path / "file" / "x.json", value)


def test_a_table() -> None:
    rows = [{"run": "a", "loss": 1.23456, "n": 3}, {"run": "long", "loss": None, "more": 0.5}]
    assert table(rows).splitlines() == [
        "run    loss  n  more",
        "a     1.235  3     -",
        "long      -  -   0.5",
    ]


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
    assert "--thresholds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sinsk", "RUN"], "unknown analysis 'sinsk'; did you mean 'sinks'"),
        (["sinks"], "the following arguments are required: RUN"),
        (["sinks", "RUN", "--sequence"], "expected one argument"),
        (["sinks", "RUN", "--lengths", "many"], "invalid int value: 'many'"),
        (["sinks", "RUN", "--sequences", "0"], "at least one sequence"),
        (["sinks", "RUN", "--epsilon", "0.1"], "unrecognized arguments: --epsilon"),
        (["quantize", "RUN", "--bits", "0"], "1 to 8 bits"),
        (["lengths", "RUN", "--multiples", "0"], "multiples"),
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
        result = analysis.read(path / "eval" / f"{name}.json")
        json.dumps(result, allow_nan=False)
        assert result["results"]
