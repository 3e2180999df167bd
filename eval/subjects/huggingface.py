"""Hugging Face causal language models as subjects."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attention import Mechanism
from eval.subjects import rotary
from eval.subjects.base import AttentionReport, HiddenReport, Places
from eval.subjects.coverage import Coverage
from eval.subjects.folder import FolderSubject
from eval.subjects.probe import TOKENS, Probe, probe
from eval.subjects.watching import watched
from models import ModelError


class HuggingFaceSubject(FolderSubject):
    """A model of a family of transformers."""

    def __init__(
        self, path: Path, device: torch.device, dtype: torch.dtype, attention: str | None = None
    ) -> None:
        super().__init__(path, device, dtype, attention)
        config = self._model.config.get_text_config()
        self.train_length = config.max_position_embeddings
        # Rotary embeddings go on beyond the training length; tables of positions do not.
        self.max_length = None if getattr(config, "rope_parameters", None) else self.train_length
        self.network = self._model
        self._layers = config.num_hidden_layers
        # Heads are padded to a rounder size than the vocabulary's; what has no piece is never written.
        self._never = sorted(set(range(self.vocab_size)) - set(self._tokenizer.get_vocab().values()))
        self._probed = self._probe()
        what = sorted(mechanism.name for mechanism in self.mechanisms)
        self.label = f"{config.model_type} {'+'.join(what) or 'attention'}"

    def _probe(self) -> Probe | ModelError:
        """What a trace of its attention shows, or why there can be none."""
        length = min(TOKENS, self.max_length or TOKENS)
        tokens = torch.arange(length)[None] * 7919 % self.vocab_size
        try:
            return probe(self._model, self.blocks, partial(self.states, tokens))
        except ModelError as error:
            return error

    @property
    def mechanisms(self) -> set[Mechanism]:  # noqa: D102
        return set() if isinstance(self._probed, ModelError) else set(self._probed.mechanisms)

    @property
    def coverage(self) -> Coverage:  # noqa: D102
        return self._traceable().coverage

    def _traceable(self) -> Probe:
        if isinstance(self._probed, ModelError):
            raise self._probed
        return self._probed

    @torch.inference_mode()
    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:  # noqa: D102
        logits = self._model(tokens.to(self.device), use_cache=False).logits
        return (logits if at is None else logits[at]).float()

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:  # noqa: D102
        return self._body(tokens.to(self.device), use_cache=False).last_hidden_state

    @property
    def _body(self) -> Any:
        """All of the model but its head: `base_model`, or where that is the model itself, the child with the blocks."""
        if self._model.base_model is not self._model:
            return self._model.base_model
        blocks = self.blocks
        return next(
            child for child in self._model.children() if any(module is blocks for module in child.modules())
        )

    @property
    def head(self) -> Tensor:  # noqa: D102
        return self._model.get_output_embeddings().weight

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:  # noqa: D102
        config, logits = self._model.config.get_text_config(), self._model.get_output_embeddings()(states)
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)  # Cohere
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma, NanoChat
            logits = cap * torch.tanh(logits / cap)
        return logits.float()

    @contextmanager
    def trace(  # noqa: D102
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> Iterator[None]:
        with ExitStack() as stack:
            if attention is not None:
                stack.enter_context(self._reporting(attention))
            if hidden is not None:
                before, *after = _hidden_hooks(self.blocks, hidden)
                stack.callback(self.blocks[0].register_forward_pre_hook(before, with_kwargs=True).remove)
                for block, hook in zip(self.blocks, after, strict=True):
                    stack.callback(block.register_forward_hook(hook).remove)
            yield

    @torch.inference_mode()
    def generate(  # noqa: D102
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        prompt = torch.tensor([list(tokens)], device=self.device)
        drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        options: dict[str, Any] = {"pad_token_id": self.eos, **drawn, **sampling}
        if self._never:
            options["suppress_tokens"] = [*self._never, *options.get("suppress_tokens", [])]
        try:
            grown = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, **options
            )
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"{self.name} cannot generate so: {' '.join(str(error).split())[:300]}"
            ) from error
        return grown[0, len(tokens) :].tolist()

    @property
    def blocks(self) -> nn.ModuleList:  # noqa: D102
        for module in self.network.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self._layers:
                return module
        raise ModelError(f"{type(self.network).__name__} has no list of {self._layers} blocks to observe")

    @property
    def fixed_positions(self) -> str | None:  # noqa: D102
        found = self._rotary_tables
        return f"the positions of {self.name} {found}" if isinstance(found, str) else None

    def rescaled(self, scaling: str, factor: float, train_length: int) -> AbstractContextManager[None]:  # noqa: D102
        found = self._rotary_tables
        if isinstance(found, str):
            raise ModelError(f"{self.fixed_positions}; use --rope none")
        return rotary.rescaled(found, scaling, factor, train_length)

    @property
    def _rotary_tables(self) -> list[rotary.RotaryTable] | str:
        config = self._model.config.get_text_config()
        return rotary.rotary_tables(self.network, getattr(config, "rope_parameters", None) or {})

    def _reporting(self, report: AttentionReport) -> AbstractContextManager[None]:
        return watched(self._model, self._traceable().layers.__getitem__, lambda module, call: report(call))


def _hidden_hooks(blocks: nn.ModuleList, report: HiddenReport) -> list[Callable[..., None]]:
    def before(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        report(-1, inputs[0] if inputs else options["hidden_states"])

    def after(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            report(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    return [before, *(after(layer) for layer in range(len(blocks)))]
