"""A study from the command line: run, killed, run again, with a run that fails, and reported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import InputError
from storage.checkpoint import checkpoints
from study import __main__ as command
from study.command import _finished
from study.definition import load
from study.engine import _deaf_to_ctrl_c
from study.tasks import lock_of_process, record_path, state, states, tasks
from tests.room import no_file_beyond
from tests.study.conftest import FILE

ROOT = Path(__file__).parents[2]

GRID = {
    "attention": {
        "softmax": [],
        "softpick": ["model.attention=softpick"],
        "lonely": ["train.processes=2"],  # passes for a config, and fails in the process that is alone
    }
}


def run(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "study", "run", str(path), "--workers", "2"],
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_study_survives_a_kill_and_a_run_that_fails(write, capsys):
    typo = FILE["claims"][0] | {"name": "typo", "metric": "sink_rate"}
    path = write(grid=GRID, claims=[*FILE["claims"], typo])
    study = load(path)
    first = run(path)
    records = [record_path(study, task) for task in tasks(study)]
    while first.poll() is None and not any(record.is_file() for record in records):
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = {record: record.read_bytes() for record in records if record.is_file()}
    assert 0 < len(done) < len(records)

    second = run(path)
    printed, _ = second.communicate(timeout=500)
    assert second.returncode == 1, printed
    assert "tiny: 4 done, 2 failed" in printed
    assert "lonely-seed-1 failed: train.processes=2, but 1 are running" in printed
    assert all(record.read_bytes() == before for record, before in done.items()), (
        "what was done is not done again"
    )
    assert sorted(states(study).values()) == ["done"] * 4 + ["failed"] * 2

    command.main(["report", str(path), "--write", str(path.parent / "published")])
    shown = capsys.readouterr().out
    assert "undecided: Softpick has fewer sinks than softmax (no-sinks)." in shown
    assert "(typo). Open: no number 'sink_rate' was measured; did you mean 'sink_raw'?" in shown
    report = json.loads((study.folder / "report.json").read_text())
    values = report["numbers"]["bits_per_byte"]["values"]
    assert {variant: sorted(found) for variant, found in values.items()} == {
        "softmax": ["1", "2"],
        "softpick": ["1", "2"],
        "lonely": [],
    }
    published = path.parent / "published" / study.name
    page = published.with_suffix(".md").read_text()
    assert page.replace(f"({study.name}.svg)", "(forest.svg)") == (study.folder / "report.md").read_text()
    assert f"]({study.name}.svg)" in page
    assert "<svg" in published.with_suffix(".svg").read_text()
    assert published.with_suffix(".csv").is_file()
    assert "| softpick | 2 |" in page
    assert "Missing: lonely-seed-1 (failed), lonely-seed-2 (failed)." in page
    assert (study.folder / "numbers.csv").read_text().count("\n") == 1 + 2 * 4

    html = (study.folder / "report.html").read_text()
    assert "<p>Softpick has fewer sinks than softmax.</p>" in html
    assert not re.search(r'(src|href)="(?![#$])', html), "the page loads nothing"

    with no_file_beyond(1000), pytest.raises(OSError, match=r"report\.html"):
        command.main(["report", str(path)])
    assert (study.folder / "report.html").read_text() == html

    command.main(["export", str(path), "paper"])
    before = {file: file.read_bytes() for file in Path("paper").iterdir()}
    with no_file_beyond(10), pytest.raises(InputError, match="cannot write paper"):
        command.main(["export", str(path), "paper"])
    assert {file: file.read_bytes() for file in Path("paper").iterdir()} == before
    written = {file.name for file in Path("paper").iterdir()}
    assert {
        "forest.svg",
        "forest.pdf",
        "forest.png",
        "forest.csv",
        "loss.pdf",
        "loss.csv",
        "numbers.csv",
        "bits_per_byte.tex",
    } <= written
    table = Path("paper/sink_renormalised.tex").read_text()
    assert "softpick & " in table
    assert "%" not in table.replace("\\%", ""), "a bare % hides the rest of a line"

    command.main(["status", str(path)])
    assert "4 done, 2 failed" in capsys.readouterr().out

    lost = study.folder / "softmax-seed-2"
    (lost / "eval/sinks.json").write_text("{}")
    (lost / "metrics.jsonl").write_text("")
    command.main(["report", str(path)])
    words = "training: not logged, sinks: the result file is damaged or was edited"
    assert f"softmax-seed-2 ({words})" in (study.folder / "report.md").read_text()

    lost.rename(study.folder / "kept")
    shutil.copytree(study.folder / "softpick-seed-2", lost)
    with pytest.raises(InputError, match="softmax-seed-2 holds the run softpick-seed-2"):
        command.main(["report", str(path)])


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_stops_and_can_be_resumed(write):
    path = write(overrides=["train.steps=100000"])
    study = load(path)
    task = tasks(study)[0]
    worker = subprocess.Popen(
        [sys.executable, "-m", "study", "work", str(path)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    run = study.folder / task.name
    while not checkpoints(run):
        assert worker.poll() is None
        time.sleep(0.1)
    saved = max(checkpoints(run))
    worker.kill()
    worker.wait()
    with lock_of_process(study, task).acquire(timeout=60):
        assert max(checkpoints(run)) > saved
    assert state(study, task) == "ready"


@pytest.mark.slow
def test_a_study_that_is_stopped_ends_its_workers():
    script = (
        "import subprocess, psutil; from study import command; worker = subprocess.Popen(['sleep', '60']); "
        "command._stop(); print(psutil.pid_exists(worker.pid))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
def test_workers_leave_ctrl_c_to_the_study():
    before = signal.getsignal(signal.SIGINT)
    asking = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"]
    with _deaf_to_ctrl_c():
        told = subprocess.run(asking, capture_output=True, text=True)
    assert told.stdout.strip() == "True"
    assert signal.getsignal(signal.SIGINT) == before


def test_workers_that_end_before_the_study_are_an_error(study):
    with pytest.raises(ValueError, match=r"ended and 4 runs have not; runs/studies/tiny/workers says why"):
        _finished(study)


def test_every_seed_is_checked_before_anything_is_run(write):
    path = write(seeds=[1, -1])
    with pytest.raises(ValueError, match=r"variant softmax cannot be trained: seed must be .* got -1"):
        command.main(["run", str(path)])
    assert not (path.parent / "runs").exists()


def test_a_variant_that_cannot_be_trained_is_refused_before_anything_is_run(write):
    path = write(grid={"attention": {"softmax": [], "softpick": ["model.attention=softpikc"]}})
    with pytest.raises(ValueError, match=r"variant softpick cannot be trained: .*'softpikc'.*softpick"):
        command.main(["run", str(path)])
    assert not (path.parent / "runs").exists()


def test_a_report_of_nothing_says_what_to_do(write):
    path = write()
    with pytest.raises(ValueError, match="no run of tiny has been measured yet: python -m study run"):
        command.main(["report", str(path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "x.yaml"], "unknown command 'rnu'; there are run, status, report, speed, export, work"),
        (["run"], "the following arguments are required: FILE"),
        (["run", "FILE", "--workers", "0"], "--workers must be at least 1"),
        (["run", "FILE", "--workers", "999"], "999 workers on .* cores"),
        (["run", "FILE", "--job", "x"], "--job must read key=value"),
        (["run", "FILE", "--cluster", "slurm", "--job", "timeout_min=²"], "workers on slurm"),
        (["run", "FILE", "--cluster", "slurm"], "workers on slurm cannot be started"),
        (["work", "FILE", "--pin", "2/2"], "workers are counted from 0"),
        (["work", "FILE", "--pin", "x"], "--pin must read I/N"),
    ],
)
def test_mistakes_are_one_line(write, arguments, message):
    path = write(claims=FILE["claims"])
    with pytest.raises(ValueError, match=message):
        command.main([str(path) if part == "FILE" else part for part in arguments])


def test_help_names_every_command(capsys):
    command.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in command.COMMANDS)
