"""The offline tasks: how they are made from held-out text, and what a model that knows nothing gets."""

import json
from pathlib import Path

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")


from eval.analyses import harness  # noqa: E402
from eval.analyses.harness import Settings  # noqa: E402
from eval.lm_tasks import (  # noqa: E402
    build,
    separation,
)
from eval.subject import open_subject  # noqa: E402
from eval.subjects.base import Subject  # noqa: E402
from tests.eval.measuring import measure  # noqa: E402


@pytest.fixture
def subject(run_path: Path) -> Subject:
    return open_subject(run_path)


@pytest.fixture
def texts(tmp_path: Path, subject: Subject) -> str:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(subject.held_out()))
    return str(path)


def test_cloze_asks_for_a_word_of_the_context(tmp_path: Path) -> None:
    letters = "abcdefghij"
    words = [f"{a}{b}{c}x" for a in letters for b in letters for c in letters]
    words[::7] = ["again"] * len(words[::7])
    words[::9] = ["cat"] * len(words[::9])
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([" ".join(words) + "."]))
    samples = build.cloze(str(texts), 30, 16)["test"]
    assert set(samples["word"]) == {" again"}
    assert len(set(samples["context"])) == 30
    assert all("again" in context and context + " again" in " ".join(words) for context in samples["context"])


def test_four_passages_share_their_endings(texts: str, subject: Subject) -> None:
    samples = list(build.continuation(texts, 30, 16)["test"])
    assert len(samples) == 28
    for start in range(0, len(samples), 4):
        group = samples[start : start + 4]
        assert [sample["answer"] for sample in group] == [0, 1, 2, 3]
        assert all(sample["endings"] == group[0]["endings"] for sample in group)
        assert len({*group[0]["endings"]}) == 4
        for sample in group:
            true = sample["context"] + sample["endings"][sample["answer"]]
            assert any(true in text for text in subject.held_out())


def test_word_order_pairs_have_the_same_words_and_tokens(texts: str, subject: Subject) -> None:
    for sample in build.order(texts, 30, 32)["test"]:
        right, wrong = sample["endings"][sample["answer"]], sample["endings"][1 - sample["answer"]]
        assert right != wrong
        assert sorted(right.split()) == sorted(wrong.split())
        tokens = [subject.encode(sample["context"] + ending) for ending in (right, wrong)]
        assert sorted(tokens[0]) == sorted(tokens[1])
        assert any(sample["context"] + right in text for text in subject.held_out())


def test_substitutions_exchange_two_words(texts: str, subject: Subject) -> None:
    samples = list(build.substitution(texts, 30, 32)["test"])
    assert len(samples) == 30
    for sample in samples:
        right, wrong = sample["endings"][sample["answer"]], sample["endings"][1 - sample["answer"]]
        above, below = (sample["context"] + right).split("\n\n")
        assert all(any(passage in text for text in subject.held_out()) for passage in (above, below))
        changed = [
            (mine, other)
            for mine, other in zip(right.split(" "), wrong.split(" "), strict=True)
            if mine != other
        ]
        assert len(changed) == 2
        assert changed[0] == changed[1][::-1]
        tokens = [subject.encode(sample["context"] + ending) for ending in (right, wrong)]
        assert sorted(tokens[0]) == sorted(tokens[1])


@pytest.mark.slow
def test_a_unigram_model_has_nothing_to_go_by(run_path: Path) -> None:
    blind = separation.unigram(separation.open_run(str(run_path)))
    tasks = measure(harness, blind, Settings(samples=60, words=16))["results"]["tasks"]
    # Each ending is right once among four passages, and none is more likely behind a passage.
    assert tasks["continuation"]["metrics"]["acc"]["value"] == 0.25
    assert tasks["continuation"]["metrics"]["acc_mutual_info"]["value"] == 0.25
    assert tasks["cloze"]["metrics"]["acc"]["value"] == 0
    for name in ("order", "substitution"):
        metric = tasks[name]["metrics"]["acc"]
        assert abs(metric["value"] - tasks[name]["chance"]) < 3 * metric["stderr"]
    assert tasks["rolling"]["metrics"]["bits_per_byte"]["value"] < 3


def test_a_model_before_training_is_a_new_one(run_path: Path) -> None:
    # The run of this test was never trained, and its weights were drawn from seed 0.
    run, blank = (separation.open_run(str(run_path)) for _ in range(2))
    blank.network.embedding.weight.zero_()
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert not blank.logits(tokens).any()
    torch.testing.assert_close(separation.untrained(blank, seed=0).logits(tokens), run.logits(tokens))
    assert not torch.allclose(separation.untrained(blank, seed=1).logits(tokens), run.logits(tokens))


def test_questions_are_columns_of_the_documents() -> None:
    """lm-eval compiles a template once more for every document; what stands in a column it takes as it is."""
    for name in harness.OFFLINE:
        assert "{{" not in (Path(build.__file__).parent / f"{name}.yaml").read_text(), name
