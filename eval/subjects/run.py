"""Runs of this project as subjects."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data import Prepared
from data.corpora.huggingface import is_saved
from eval.subjects.base import fingerprint
from eval.subjects.gpt import GPTSubject
from eval.subjects.texts import corpus
from models import ModelError
from storage import load_run


class RunSubject(GPTSubject):
    """A run of this project."""

    def __init__(self, path: Path, step: int | None, device: torch.device, dtype: torch.dtype) -> None:
        run = load_run(path, step=step, device=device, dtype=dtype)
        self.name, self.path, self.step, self.checkpoint = run.name, run.path, run.step, run.checkpoint
        self.architecture = fingerprint(asdict(run.model.plan))
        self.train_length = run.train_length
        self.network = run.model.requires_grad_(False)
        self.label = run.model.plan.attention
        self.max_length = run.model.plan.max_length
        self.vocab_size = run.model.plan.vocab_size
        self.bos = self.eos = run.tokenizer.bos
        self.tokenizer_fingerprint = run.tokenizer.fingerprint
        self.device, self.dtype = device, dtype
        self.config = run.config
        self._run = run

    def encode(self, text: str) -> list[int]:  # noqa: D102
        return self._run.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._run.tokenizer.decode(list(ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:  # noqa: D102
        return self._run.tokenizer.pieces(list(ids))

    def own_corpus(self) -> tuple[str, Prepared]:  # noqa: D102
        if "data" not in self.config:
            raise ModelError(f"the config of run {self.path} has no data section; name a text with --text")
        # The run's own tokenizer decides the fingerprint, not one that is trained again by another library version.
        tokenizer = {"path": str(self.path / "tokenizer.model")}
        section = {**self.config["data"], "tokenizer": tokenizer}
        _check_place(self.path, section, self.allow_network)
        source, prepared = corpus(section, str(self.path / "config.yaml"))
        if prepared.fingerprint != self._run.data:
            raise ModelError(
                f"the corpus of run {self.path} is not what it was at training time, so what is held out now may have "
                "been trained on; name a text with --text"
            )
        return source, prepared


def _check_place(run: Path, section: Mapping[str, Any], allow_network: bool) -> None:
    """Say which file of this machine a run's config names; refuse a corpus from elsewhere unless that is allowed.

    A run may come from somebody else, and an address can carry what it was made to ask for.

    Raises:
        ModelError: the corpus may lie on another machine.
    """
    path = section.get("path")
    local = is_saved(str(section.get("dataset") or path or ""))
    if section.get("corpus") == "huggingface" and not local and not allow_network:
        named = ", ".join(str(section[key]) for key in ("dataset", "path") if section.get(key))
        raise ModelError(
            f"the config of run {run} names a corpus that may lie on another machine ({named}); if that is meant to "
            "be asked, add --allow-network, or name a text with --text"
        )
    if path is not None:
        print(f"{run}: its config names the text {path}, which is read now", file=sys.stderr)
