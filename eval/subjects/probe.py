"""A short forward pass that finds out what a trace of a Hugging Face model's attention shows, and whether it is true.

Nothing is known of a family by its name. The pass is made twice, with the model's own attention and with the watched
one; unless both give the same final states, the model does something that is not served, and is refused. The layers
are those from whose blocks the attention function is called. A linear layer that reads the mixed values as they are is
the output projection; where there is none, something stands in between, and factors between 0 and 1 make it a gate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention import AttentionError, Mechanism
from common.errors import InputError
from eval.subjects.coverage import GATE, Coverage
from eval.subjects.watching import watched
from models import AttentionCall, ModelError

TOKENS = 24
"""Of the pass, unless the model has fewer positions."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest median of ||difference|| / ||state|| over tokens; rounding stays below, another formula does not."""

CHANGED = "step that changes the mixed values"


@dataclass(frozen=True)
class Probe:
    """The findings.

    Attributes:
        layers: the number of the block that each attention module stands in.
        coverage: the layers that attend, and what follows their weights.
        mechanisms: what they attend with.
    """

    layers: Mapping[nn.Module, int]
    coverage: Coverage
    mechanisms: frozenset[Mechanism]


@torch.inference_mode()
def probe(model: Any, blocks: nn.ModuleList, states: Callable[[], Tensor]) -> Probe:
    """Find out what a trace shows.

    Args:
        model: the causal language model, in evaluation mode.
        blocks: its blocks.
        states: runs it on some tokens, to final states [B, T, d].

    Raises:
        ModelError: its attention cannot be watched, or is not what `attention.attend` computes.
    """
    own = states().float()
    found = _Findings(blocks)
    traced = _watched_states(model, found, states)
    error = float(((traced - own).norm(dim=-1) / own.norm(dim=-1)).median())
    if not error <= TOLERANCE[model.dtype]:
        name = type(model).__name__
        raise ModelError(
            f"{name} does not attend as the trace has it: its final states differ by {error:.1%}"
        )
    if not found.layers:
        raise ModelError(f"{type(model).__name__} has no layer whose attention weights can be traced")
    layers = sorted(found.layers.values())
    left_out = {
        str(index): _reason(model.config.get_text_config(), index, block)
        for index, block in enumerate(blocks)
        if index not in layers
    }
    coverage = Coverage(layers, len(blocks), left_out, found.followed_by())
    return Probe(found.layers, coverage, frozenset(found.mechanisms))


def _watched_states(model: Any, found: "_Findings", states: Callable[[], Tensor]) -> Tensor:
    try:
        with watched(model, found.place, found.see):
            return states().float()
    except InputError:
        raise
    except AttentionError as error:
        raise ModelError(str(error)) from error
    # A model that reads its mask itself, or expects weights, fails in ways of its own.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"{type(model).__name__} does not work while its attention is traced: {reason}"
        ) from error
    finally:
        for handle in found.handles:
            handle.remove()


class _Findings:
    """What one watched pass shows."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.places = {module: index for index, block in enumerate(blocks) for module in block.modules()}
        self.layers: dict[nn.Module, int] = {}
        self.mechanisms: set[Mechanism] = set()
        self.handles: list[Any] = []
        self.reads: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def place(self, module: nn.Module) -> int:
        """The layer of a module that attends.

        Raises:
            ModelError: it stands in none, or another call of this pass was in the same.
        """
        name = type(module).__name__
        if module not in self.places:
            raise ModelError(f"{name} stands in no block of the model, so its layer is not known")
        layer = self.places[module]
        if layer in self.layers.values():
            raise ModelError(f"{name} attends more than once in layer {layer}, which a trace cannot show")
        return layer

    def see(self, attention: nn.Module, call: AttentionCall) -> None:
        """Note a call, and what the linear layers of its module read after it."""
        self.layers[attention] = call.layer
        self.mechanisms.add(call.mechanism)
        mixed = call.output.flatten(-2).clone()
        reads = self.reads.setdefault(attention, [])

        def read(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and inputs[0].numel() == mixed.numel():
                reads.append((mixed, inputs[0].reshape(mixed.shape)))

        for module in attention.modules():
            if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
                self.handles.append(module.register_forward_pre_hook(read))

    def followed_by(self) -> str | None:
        """What stands between the mixed values and the output projection, in whatever layer it does."""
        kinds = {_change(reads) for reads in self.reads.values()} - {None}
        return GATE if kinds == {GATE} else CHANGED if kinds else None


def _change(reads: list[tuple[Tensor, Tensor]]) -> str | None:
    """What becomes of mixed values before a linear layer reads them, from all that were read after them."""
    if not reads or any(torch.equal(mixed, taken) for mixed, taken in reads):
        return None
    mixed, taken = reads[-1]
    factor = (taken / mixed)[mixed != 0]
    return GATE if bool(((factor >= 0) & (factor <= 1)).all()) else CHANGED


def _reason(config: Any, index: int, block: nn.Module) -> str:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and index < len(kinds):
        return f"{kinds[index]} has no attention weights"
    return f"{type(block).__name__} has no attention weights"
