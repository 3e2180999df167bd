"""Models of this project as subjects, wherever their weights come from."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attention import Mechanism
from eval.subjects.base import AttentionReport, HiddenReport, Places, Subject
from eval.subjects.coverage import Coverage
from models import GPT, ModelError
from models import trace as trace_model


class GPTSubject(Subject):
    """A subject whose network is a `models.GPT`."""

    network: GPT

    @torch.inference_mode()
    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:  # noqa: D102
        states = self.states(tokens)
        return self.read_out(states if at is None else states[at])

    @torch.inference_mode()
    def losses(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:  # noqa: D102
        tokens = tokens.to(self.device)
        if documents is not None:
            documents = documents[:, :-1].to(self.device)
        return self.network(tokens[:, :-1], documents=documents, targets=tokens[:, 1:].contiguous())

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self.network.hidden(tokens.to(self.device))

    @property
    def head(self) -> Tensor:  # noqa: D102
        return self.network.head_weight

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:  # noqa: D102
        return self.network.logits(states).float()

    def trace(  # noqa: D102
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> AbstractContextManager[None]:
        return trace_model(self.network, attention=attention, hidden=hidden)

    @torch.inference_mode()
    def generate(  # noqa: D102
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        from models import generate

        prompt = torch.tensor([list(tokens)], device=self.device)
        grown = generate(
            self.network, prompt, max_new_tokens, temperature=temperature, stop=self.bos, **sampling
        )
        return grown[0, len(tokens) :].tolist()

    @property
    def blocks(self) -> nn.ModuleList:  # noqa: D102
        return self.network.layers

    @property
    def fixed_positions(self) -> str | None:  # noqa: D102
        return None if self.network.rope else f"{self.name} has no rotary positions to rescale"

    @contextmanager
    def rescaled(self, scaling: str, factor: float, train_length: int) -> Iterator[None]:  # noqa: D102
        model = self.network
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
