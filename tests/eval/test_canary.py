"""A model of arithmetic whose scores are known to the digit.

Its logits depend on the token before, the first token, the position and the candidate, in exact eighths. So a change in
any task, in what a token is, in where a text begins or is cut, or in how lm-eval adds things up, changes a number here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from eval.analyses import harness
from eval.language_model import HarnessModel
from eval.subjects.base import Places
from tests.eval.conftest import Scripted, prose
from tests.eval.measuring import measure


class Canary(Scripted):
    """Bytes, and a token 256 that begins a document."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.train_length, self.vocab_size, self.bos, self.eos = "canary", 96, 257, 256, 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id for id in ids if id < 256).decode("utf-8", "replace")

    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:
        position = torch.arange(tokens.shape[1])[:, None]
        candidate = torch.arange(self.vocab_size)
        mixed = 7 * tokens[..., None] + 5 * tokens[:, :1, None] + 3 * position + 11 * candidate
        logits = (mixed % 23).float() / 8
        return logits if at is None else logits[at]

    def generate(
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        grown = list(tokens)
        for _ in range(max_new_tokens):
            grown.append(int(self.logits(torch.tensor([grown]))[0, -1].argmax()))
        return grown[len(tokens) :]

    def _own_text(self) -> tuple[str, list[str]]:
        return "prose", [prose(seed, 300) for seed in range(6)]


PINNED: dict[str, Any] = json.loads((Path(__file__).parent / "canary.json").read_text())


def scores(**options: Any) -> dict[str, Any]:
    result = measure(harness, Canary(), harness.Settings(samples=40, words=24, **options))
    tasks = {
        name: {"version": task["version"], "samples": task["samples"], "sha256": task["sha256"]}
        | {metric: entry["value"] for metric, entry in task["metrics"].items()}
        for name, task in result["results"]["tasks"].items()
    }
    return {"positions": result["protocol"]["positions"], "bos": result["protocol"]["bos"], "tasks": tasks}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with BOS", "without BOS"])
def test_scores_are_pinned(name: str) -> None:
    found = scores(bos=name == "with BOS")
    wanted = PINNED[name]
    assert {key: found[key] for key in ("positions", "bos")} == {"positions": 96, "bos": name == "with BOS"}
    assert found["tasks"].keys() == wanted.keys()
    for task, values in wanted.items():
        assert found["tasks"][task] == pytest.approx(values), task


def test_text_is_pinned() -> None:
    requests = [
        Instance("generate_until", {}, (context, {"until": until, "max_gen_toks": 12}), index)
        for index, (context, until) in enumerate([("the queen", []), ("the king speaks " * 8, ["?"])])
    ]
    assert HarnessModel(Canary()).generate_until(requests) == PINNED["text"]
