"""Passkey retrieval: the published prompt, letter by letter, and an answer that greedy decoding would write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.analyses import passkey
from eval.analyses.passkey import Settings, prompt
from eval.subject import open_subject
from eval.subjects.base import Places
from models import ModelError
from tests.eval.conftest import Scripted
from tests.eval.measuring import measure, typed

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def test_the_prompt_is_the_published_one() -> None:
    text, key = prompt(120, 3)
    instruction, before, line, after, question = text.split("\n")
    assert instruction.startswith("There is an important info hidden inside a lot of irrelevant text.")
    assert line == f"The pass key is {key}. Remember it. {key} is the pass key."
    assert question == "What is the pass key? The pass key is"
    assert len(before) + len(after) == 120
    assert (FILLER + " " + FILLER).startswith(before)
    assert (FILLER + " " + FILLER).startswith(after)
    # numpy.random.seed(3 + 120); randint(0, 120), then randint(1, 50000)
    assert (len(before), key) == (109, "28031")
    assert len({prompt(3072, test)[1] for test in range(20)}) == 20
    assert all(1 <= int(prompt(3072, test)[1]) < 50_000 for test in range(20))


class Reader(Scripted):
    """Repeats what once stood behind the last eight tokens, or something else where it is told to be wrong."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.vocab_size = wrong, 258

    def encode(self, text: str) -> list[int]:
        return [1 + byte for byte in text.encode()]

    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:
        ids = tokens[0].tolist()
        found = torch.zeros(1, len(ids), self.vocab_size)
        for place in range(8, len(ids)):
            for earlier in range(place - 8, -1, -1):
                if ids[earlier : earlier + 8] == ids[place - 7 : place + 1]:
                    found[0, place, ids[earlier + 8] + self.wrong] = 9.0
                    break
        return found if at is None else found[at]


@pytest.mark.slow
def test_a_model_that_reads_back_is_right_and_another_is_not() -> None:
    settings = Settings(garbage=(100, 300), tests=6)
    results = measure(passkey, Reader(), settings)["results"]
    assert [entry["accuracy"] for entry in results["lengths"].values()] == [1.0, 1.0]
    assert list(results["lengths"]) == ["100", "300"]
    # Six of six, and none of six below: 6 / (6 + 1.96^2) and what is left of one.
    assert passkey.row(typed(passkey, results)) == {
        "348 tokens": "1.00 [0.61, 1.00]",
        "548 tokens": "1.00 [0.61, 1.00]",
    }
    wrong = measure(passkey, Reader(wrong=True), settings)["results"]["lengths"]
    assert [entry["accuracy"] for entry in wrong.values()] == [0.0, 0.0]
    assert wrong["100"]["interval"] == pytest.approx([0, 0.390], abs=1e-3)
    # The report writes ± one standard error; 1.96 of them reach the end of the interval.
    assert [
        number.value for number in passkey.numbers(typed(passkey, {"lengths": wrong, "skipped": []}))
    ] == [0, 0]
    assert passkey.numbers(typed(passkey, {"lengths": wrong, "skipped": []}))[0].interval == pytest.approx(
        [0, 0.390], abs=1e-3
    )
    assert wrong["100"]["loss"] > results["lengths"]["100"]["loss"]


def test_greedy_decoding_agrees(run_path: Path) -> None:
    subject = open_subject(run_path)
    subject.max_length = None
    question, _ = passkey._encoded(subject, "The pass key is", "77")
    written = subject.generate(question, 3)
    assert passkey._answer(subject, question, written)[0]
    assert not passkey._answer(subject, question, [written[0], written[1], (written[2] + 1) % 300])[0]


def test_what_does_not_fit_is_skipped_with_a_reason(run_path: Path) -> None:
    results = measure(passkey, open_subject(run_path), Settings())["results"]
    assert results["lengths"] == {}
    assert [entry["garbage"] for entry in results["skipped"]] == [256, 1024, 3072, 7168]
    assert {entry["reason"] for entry in results["skipped"]} == {"the model is limited to 128 positions"}
    assert [note.partition(" left out")[0] for note in passkey.notes(typed(passkey, results))] == [
        f"{garbage} characters of filler" for garbage in (256, 1024, 3072, 7168)
    ]
    with pytest.raises(ModelError, match="garbage and tests"):
        Settings(garbage=())
