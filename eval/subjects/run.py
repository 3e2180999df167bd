"""Runs of this project as subjects."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attention import Mechanism
from data import Prepared
from data.corpora.huggingface import is_saved
from eval.subjects.base import AttentionReport, HiddenReport, Subject, fingerprint
from eval.subjects.coverage import Coverage
from eval.subjects.texts import corpus
from models import GPT, ModelError
from models import trace as trace_model
from storage import load_run


class RunSubject(Subject):
    """A run of this project."""

    network: GPT

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

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self.network(tokens.to(self.device)).float()

    @torch.inference_mode()
    def losses(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:  # noqa: D102
        tokens = tokens.to(self.device)
        if documents is not None:
            documents = documents[:, :-1].to(self.device)
        return self.network(tokens[:, :-1], documents=documents, targets=tokens[:, 1:].contiguous())

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self._run.model.hidden(tokens.to(self.device))

    @property
    def head(self) -> Tensor:  # noqa: D102
        return self._run.model.head_weight

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:  # noqa: D102
        return self._run.model.logits(states).float()

    def trace(  # noqa: D102
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> AbstractContextManager[None]:
        return trace_model(self._run.model, attention=attention, hidden=hidden)

    @torch.inference_mode()
    def generate(  # noqa: D102
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        from models import generate

        prompt = torch.tensor([list(tokens)], device=self.device)
        grown = generate(
            self._run.model, prompt, max_new_tokens, temperature=temperature, stop=self.bos, **sampling
        )
        return grown[0, len(tokens) :].tolist()

    @property
    def blocks(self) -> nn.ModuleList:  # noqa: D102
        return self._run.model.layers

    @property
    def fixed_positions(self) -> str | None:  # noqa: D102
        return None if self._run.model.rope else f"{self.name} has no rotary positions to rescale"

    @contextmanager
    def rescaled(self, scaling: str, factor: float, train_length: int) -> Iterator[None]:  # noqa: D102
        model = self._run.model
        trained = model.rope
        if trained is None:
            raise ModelError(f"{self.fixed_positions}; use --rope none")
        model.rope = trained.rescaled(scaling, factor, train_length)
        try:
            yield
        finally:
            model.rope = trained

    @property
    def mechanisms(self) -> set[Mechanism]:  # noqa: D102
        blocks: Any = self.blocks
        return {block.attention.mixer.mechanism for block in blocks}

    @property
    def coverage(self) -> Coverage:  # noqa: D102
        blocks: Any = self.blocks
        steps = dict.fromkeys(name.replace("_", " ") for block in blocks for name in block.attention.post_ops)
        return replace(super().coverage, followed_by=" and ".join(steps) or None)

    @property
    def made_of(self) -> set[str]:  # noqa: D102
        return super().made_of | {type(module).__module__ for module in self.network.modules()}

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
