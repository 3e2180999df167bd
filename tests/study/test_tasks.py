"""The runs of a study: their order, what they are told, their states, and the choice of values."""

import json
import shutil

import pytest

from common.errors import InputError
from study import work
from study.command import progress, status
from study.definition import load
from study.seal import seal
from study.tasks import (
    asked,
    chosen,
    config,
    end,
    forget_failures,
    lock_of,
    overrides,
    record_path,
    state,
    states,
    tasks,
)
from tests.study.conftest import FILE

TUNING = {"key": "train.learning_rate", "values": [0.001, 0.01], "seeds": [9]}


def finish(study, task, loss):
    """Let a task end as if it had been run to this loss."""
    run = study.folder / task.name
    (run / "checkpoints" / "step-00000006").mkdir(parents=True)
    (run / "eval").mkdir()
    for file in ("config.yaml", "eval/sinks.json"):
        (run / file).touch()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 6, "bits_per_byte": loss}) + "\n")
    end(study, task, asked(study, task), 60.0, None)


def fail(study, task, why):
    end(study, task, asked(study, task), 1.0, why)


def test_all_variants_of_a_seed_come_before_the_next_seed(study):
    names = [task.name for task in tasks(study)]
    assert names == ["softmax-seed-1", "softpick-seed-1", "softmax-seed-2", "softpick-seed-2"]


def test_a_task_is_told_its_variant_seed_and_place(study):
    assert overrides(study, tasks(study)[3]) == [
        *(
            "model.attention=softpick",
            "seed=2",
            "name=softpick-seed-2",
            "out=runs/studies/tiny",
            "train.tracker=none",
        )
    ]


def test_runs_wait_for_the_values_that_are_chosen_for_them(write):
    study = load(write(tuning=TUNING))
    choosing = [task for task in tasks(study) if task.value is not None]
    assert len(choosing) == 4
    (first, *_) = (task for task in tasks(study) if task.value is None)
    assert (state(study, first), overrides(study, first)) == ("waiting", None)
    for task in choosing:
        finish(
            study, task, {0.001: 2.0, 0.01: 1.0}[task.value] * (1 if task.variant == "softmax" else -1) + 5
        )
    assert (chosen(study, "softmax"), chosen(study, "softpick")) == (0.01, 0.001)
    assert state(study, first) == "ready"
    assert "train.learning_rate=0.01" in overrides(study, first)


def test_values_keep_their_digits_and_whole_ones_fit_whole_keys(write):
    values = [8, 16.0, 0.0012345678, 0.0012345679]
    study = load(write(tuning={"key": "train.batch_size", "values": values, "seeds": [9]}))
    some = [task for task in tasks(study) if task.variant == "softmax" and task.value is not None]
    assert len({task.name for task in some}) == len(values)
    assert [config(study, task).train.batch_size for task in some[:2]] == [8, 16]


def test_a_failed_run_chooses_against_its_value(write):
    study = load(write(tuning=TUNING))
    for task in tasks(study):
        if task.value == 0.01 or (task.value and task.variant == "softpick"):
            fail(study, task, "out of memory")
        elif task.value:
            finish(study, task, 3.0)
    assert chosen(study, "softmax") == 0.001
    assert chosen(study, "softpick") is None
    assert {state(study, task) for task in tasks(study) if task.variant == "softpick"} == {"failed"}


def test_what_failed_is_tried_again_when_asked(write):
    study = load(write())
    failed, done, *_ = tasks(study)
    finish(study, done, 1.0)
    fail(study, failed, "the disk is full")
    assert (state(study, failed), state(study, done)) == ("failed", "done")
    forget_failures(study)
    assert (state(study, failed), state(study, done)) == ("ready", "done")


def test_a_run_that_would_be_told_something_else_is_done_again(write):
    study = load(write())
    task = tasks(study)[0]
    finish(study, task, 1.0)
    assert state(study, task) == "done"
    assert state(load(write(overrides=["train.steps=12"])), task) == "ready"
    assert state(load(write(analyses=["sinks --lengths 8"])), task) == "ready"
    assert state(load(write(seeds=[1, 2, 3])), task) == "done"


def test_a_run_whose_recipe_changes_is_done_again(write, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {clip: 0.5}")
    study = load(write(overrides=["recipe.yaml"]))
    task = tasks(study)[0]
    finish(study, task, 1.0)
    assert state(study, task) == "done"
    recipe.write_text("train: {clip: 0.25}")
    assert state(study, task) == "ready"


@pytest.mark.parametrize("part", ["", "config.yaml", "checkpoints", "eval/sinks.json"])
def test_a_run_that_is_there_no_more_is_done_again(study, part):
    task = tasks(study)[0]
    finish(study, task, 1.0)
    lost = study.folder / task.name / part
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert state(study, task) == "ready"


def test_a_run_that_chose_a_value_may_be_thrown_away(write):
    study = load(write(tuning=TUNING))
    task = tasks(study)[0]
    finish(study, task, 1.0)
    shutil.rmtree(study.folder / task.name)
    assert state(study, task) == "done"


def test_a_config_that_changes_during_a_run_is_not_what_the_run_was_told(write, tmp_path):
    """Neither in the record of the run nor in the process that is about to train it."""
    path = write()
    taken = work._taken(path)
    study, task = next(taken)
    told = asked(study, task)
    finish(study, task, 1.0)
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text().replace("batch_size: 8", "batch_size: 4"))
    again, same = next(taken)
    assert same == task, "what ended was told something else"
    assert asked(again, task) != told
    with pytest.raises(
        InputError, match=r"tiny\.yaml, or a config that it names, has changed since this run"
    ):
        work._train_and_measure(again, task, told)
    gone = load(write(grid={"attention": {"softmax": []}}, claims=[]))
    lost = next(task for task in tasks(study) if task.variant == "softpick")
    with pytest.raises(InputError, match="has changed since this run"):
        work._train_and_measure(gone, lost, told)


def test_a_locked_task_is_running(study):
    task = tasks(study)[0]
    with lock_of(study, task):
        assert state(study, task) == "running"
        assert state(study, task, mine=True) == "ready"
    assert state(study, task) == "ready"


def test_states_are_told_without_a_folder_to_write_to(study, tmp_path, capsys):
    status(str(study.path))
    assert capsys.readouterr().out == "tiny: 4 ready; the time left is known once a run has ended\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "tiny.yaml"]


def test_progress_tells_states_and_time_left(study):
    finish(study, tasks(study)[0], 1.0)
    fail(study, tasks(study)[1], "no")
    assert (
        progress(study, states(study), 1) == "tiny: 1 done, 2 ready, 1 failed; about 2 min left with 1 worker"
    )


def test_claims_can_be_changed_until_there_is_a_result(write):
    study = load(write())
    first = seal(study)
    study = load(write(claims=[FILE["claims"][0] | {"smallest": 0.5}]))
    assert seal(study).fingerprint != first.fingerprint
    finish(study, tasks(study)[0], 1.0)
    assert seal(study).claims[0].smallest == 0.5
    with pytest.raises(InputError, match="claims of tiny have changed since its first result: no-sinks"):
        seal(load(write()))
    for changed in ({"claims": []}, {"claims": [], "seeds": [3]}):
        with pytest.raises(InputError, match="no-sinks"):
            seal(load(write(**changed)))


def test_seeds_can_be_added_and_are_told_apart(write):
    study = load(write())
    seal(study)
    finish(study, tasks(study)[0], 1.0)
    assert seal(load(write(seeds=[1, 2, 3]))).seeds == [1, 2]


def test_an_edited_seal_is_refused(study):
    seal(study)
    path = study.folder / "study.json"
    path.write_text(path.read_text().replace("0.01", "0.02"))
    with pytest.raises(InputError, match="was edited"):
        seal(study)


def test_a_damaged_record_is_one_line(study):
    task = tasks(study)[0]
    finish(study, task, 1.0)
    record_path(study, task).write_text('{"asked": 3}')
    with pytest.raises(InputError, match="softmax-seed-1"):
        state(study, task)
