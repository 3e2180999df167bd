"""The harness: the offline tasks, tasks of one's own, and what it refuses."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager  # noqa: E402

from data import DataConfig, TokenizerConfig  # noqa: E402
from eval.analyses import harness  # noqa: E402
from eval.analyses.harness import Settings  # noqa: E402
from eval.codec import encode  # noqa: E402
from eval.language_model import HarnessModel  # noqa: E402
from eval.lm_tasks import (  # noqa: E402
    build,
)
from eval.subject import open_subject  # noqa: E402
from eval.subjects.base import Subject  # noqa: E402
from models import ModelError  # noqa: E402
from tests.eval.asking import likelihood, requests  # noqa: E402
from tests.eval.conftest import untrained_run  # noqa: E402
from tests.eval.measuring import measure, typed  # noqa: E402
from tests.room import no_file_beyond  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def subject(run_path: Path) -> Subject:
    return open_subject(run_path)


def test_the_offline_tasks_run(subject: Subject) -> None:
    settings = Settings(samples=12, words=16)
    first, second = (measure(harness, subject, settings) for _ in range(2))
    assert first == second
    tasks = first["results"]["tasks"]
    assert list(tasks) == list(harness.OFFLINE)
    assert {tasks[name]["samples"] for name in ("cloze", "continuation", "order", "substitution")} == {12}
    assert {name: task["chance"] for name, task in tasks.items()} == {
        "cloze": None,
        "continuation": 0.25,
        "order": 0.5,
        "substitution": 0.5,
        "rolling": None,
    }
    for name, metric in first["results"]["headline"].items():
        assert metric in tasks[name]["metrics"]
    assert 0 <= tasks["continuation"]["metrics"]["acc_mutual_info"]["value"] <= 1
    cloze = tasks["cloze"]["metrics"]
    assert cloze["perplexity"]["higher_is_better"] is False
    assert cloze["perplexity"]["value"] == pytest.approx(math.exp(-cloze["log_likelihood"]["value"]))
    assert cloze["log_likelihood"]["stderr"] > 0
    assert first["protocol"]["positions"] == subject.train_length
    assert first["protocol"]["bos"] is True
    assert set(harness.row(typed(harness, first["results"]))) == {
        "cloze log_likelihood",
        "continuation acc_mutual_info",
        "order acc",
        "substitution acc",
        "rolling bits_per_byte",
    }


def test_rolling_bits_per_byte_equal_direct_computation(subject: Subject, tmp_path: Path) -> None:
    settings = Settings(tasks=("rolling",), samples=5, words=8)
    got = measure(harness, subject, settings)["results"]["tasks"]["rolling"]["metrics"]["bits_per_byte"][
        "value"
    ]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(subject.held_out()))
    passages = build.rolling(str(texts), 5, 8)["test"]["text"]
    model = HarnessModel(subject, subject.train_length, bos=True)
    nats = -sum(
        model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in passages]))
    )
    total = sum(len(text.encode()) for text in passages)
    assert got == pytest.approx(nats / torch.tensor(2.0).log().item() / total, rel=1e-5)


def test_lm_eval_takes_the_model(subject: Subject) -> None:
    report = lm_eval.simple_evaluate(
        model=HarnessModel(subject),
        tasks=[
            {
                "task": "local",
                "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": "the queen speaks of"}])},
                "dataset_path": "",
                "output_type": "loglikelihood_rolling",
                "test_split": "test",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "bits_per_byte"}],
            }
        ],
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=0,
    )
    ids = [subject.bos, *subject.encode("the queen speaks of")]
    bits = -likelihood(subject, ids, len(ids) - 1) / math.log(2) / 19
    assert report["results"]["local"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)


def test_every_filter_of_a_task_has_its_numbers() -> None:
    """As of gsm8k: one metric read strictly and flexibly, from one answer to each of two questions."""
    report = {
        "results": {
            "sums": {
                "alias": "sums",
                "exact_match,strict-match": 0.0,
                "exact_match_stderr,strict-match": 0.0,
                "exact_match,flexible-extract": 0.5,
                "exact_match_stderr,flexible-extract": 0.1,
                "acc,none": 0.25,
                "acc_stderr,none": "N/A",
            }
        },
        "versions": {"sums": 3},
        "higher_is_better": {"sums": {"exact_match": True, "acc": True}},
        "samples": {"sums": [{"doc_id": place, "doc": {"q": place}} for place in (0, 1, 0, 1)]},
    }
    task = harness._task("sums", report)
    assert task.samples == 2
    assert encode(task.metrics) == {
        "exact_match strict-match": {"value": 0.0, "stderr": 0.0, "higher_is_better": True},
        "exact_match flexible-extract": {"value": 0.5, "stderr": 0.1, "higher_is_better": True},
        "acc": {"value": 0.25, "stderr": None, "higher_is_better": True},
    }


def test_a_task_that_cannot_be_downloaded_is_one_line(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        all_tasks = ("arc_easy",)

        def __init__(self, **_: Any) -> None: ...

        def load(self, _: str) -> None:
            raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub\nand more")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Unreachable)
    with pytest.raises(ModelError, match=r"arc_easy: Couldn't reach .* need the network$") as caught:
        measure(harness, subject, Settings(tasks=("arc_easy",)))
    assert "\n" not in str(caught.value)


def test_tasks_refuse_a_text_that_is_too_short(run_path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the queen speaks")
    with pytest.raises(ModelError, match="too short or too plain"):
        measure(harness, open_subject(run_path, text=str(short)), Settings(tasks=("cloze",)))


def test_mistakes(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="exceeds the 128 positions"):
        measure(harness, subject, Settings(max_length=129))
    with pytest.raises(ModelError, match="at least 1 position, got 0"):
        measure(harness, subject, Settings(max_length=0))
    with pytest.raises(ModelError, match="at least one document, got -1"):
        Settings(limit=-1)
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install"):
        harness.before(Settings())


def test_only_stock_tasks_need_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    harness.before(Settings(tasks=("cloze", "piqa")))
    assert "HF_HUB_OFFLINE" not in harness.os.environ
    harness.before(Settings())
    assert harness.os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_task_that_the_text_cannot_give_does_not_fail_the_others(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = sorted(
        {"".join(draw.choice("aeioklmnrst") for _ in range(draw.randint(3, 8))) for _ in range(90)}
    )
    (tmp_path / "names.jsonl").write_text("\n".join(json.dumps({"text": name}) for name in names))
    data = DataConfig(
        corpus="jsonl",
        path=str(tmp_path / "names.jsonl"),
        tokenizer=TokenizerConfig(kind="char", vocab_size=300),
    )
    shape = {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 16, "max_length": 64}
    subject = open_subject(untrained_run(tmp_path / "names", data, 32, **shape))
    results = measure(harness, subject, Settings())["results"]
    assert list(results["tasks"]) == ["rolling"]
    assert results["tasks"]["rolling"]["samples"] == len(subject.held_out())
    assert set(results["skipped"]) == set(harness.OFFLINE) - {"rolling"}
    assert harness.row(typed(harness, results))["skipped"] == "cloze, continuation, order, substitution"
    # Whole documents, so the definition is theirs: nats of all tokens but BOS over all bytes.
    nats = sum(
        likelihood(subject, [subject.bos, *ids], len(ids)) for ids in map(subject.encode, subject.held_out())
    )
    written = sum(len(name.encode()) for name in subject.held_out())
    bits = results["tasks"]["rolling"]["metrics"]["bits_per_byte"]["value"]
    assert bits == pytest.approx(-nats / written / math.log(2), rel=1e-5)


def test_tasks_of_ones_own_by_file_folder_and_name(subject: Subject, own_tasks: Path) -> None:
    found = [
        measure(harness, subject, Settings(tasks=tasks, include_path=include))["results"]
        for tasks, include in (
            ((str(own_tasks / "mine.yaml"),), None),
            ((f"{own_tasks}/",), None),
            (("mine",), str(own_tasks)),
        )
    ]
    assert found[0]["tasks"]["mine"]["samples"] == 2
    assert found[0]["headline"] == {"mine": "acc"}
    assert found[0] == found[1] == found[2]
    assert not harness.reusable(Settings(tasks=("mine",), include_path=str(own_tasks)))
    assert not harness.reusable(Settings(tasks=("mine.yaml",)))
    assert harness.reusable(Settings())


def test_samples_are_written_beside_the_result(subject: Subject, own_tasks: Path, tmp_path: Path) -> None:
    subject.results = tmp_path / "results"
    measure(harness, subject, Settings(tasks=(str(own_tasks),), log_samples=True))
    path = tmp_path / "results" / "harness-samples" / "mine.jsonl"
    written = path.read_text()
    assert [json.loads(line)["doc"]["question"] for line in written.splitlines()] == ["the queen", "of night"]
    with no_file_beyond(10), pytest.raises(ModelError, match="cannot write the samples"):
        harness._log(path.parent, {"mine": [{"doc": "another"}]})
    assert path.read_text() == written, "the old file stays where there is no room"


@pytest.mark.parametrize(
    ("tasks", "include", "reason"),
    [
        (("none.yaml",), None, "no task file or folder none.yaml"),
        (("some/where",), None, "no task file or folder some/where"),
        (("mine",), "nowhere", "--include-path nowhere is not a folder"),
    ],
)
def test_tasks_that_are_not_there_are_named(
    subject: Subject, tasks: tuple[str, ...], include: str | None, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        measure(harness, subject, Settings(tasks=tasks, include_path=include))


@pytest.mark.parametrize(
    "content", ["task: [", "just words", "output_type: multiple_choice", "task: x\ndataset_path: json\n"]
)
def test_a_task_file_that_is_none_is_one_line(
    subject: Subject, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a dataset without files is looked for in the folder that one is in
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ModelError, match=r"lm-eval cannot load task .*bad\.yaml"):
        measure(harness, subject, Settings(tasks=(str(tmp_path / "bad.yaml"),)))


def test_generation_is_told_how(subject: Subject) -> None:
    with pytest.raises(ModelError, match="--gen-kwargs takes name=value,name=value, not 'hot'"):
        Settings(gen_kwargs="hot")
    assert Settings(gen_kwargs="temperature=0.8,top_k=4").gen_kwargs == "temperature=0.8,top_k=4"
