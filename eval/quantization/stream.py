"""Text on its way through the blocks, one block at a time."""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from eval.subjects.base import Subject
from eval.windows import Windows

HIDDEN = "hidden_states"


class BlockStream:
    """The residual streams of some windows in front of one block, on which it can be run again and again.

    What a block is given besides (rotations, masks) is recorded once, from the network as it is.
    """

    def __init__(self, subject: Subject, windows: Windows) -> None:
        """Run the network once and stand in front of the first block."""
        self._others: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._hidden: list[Tensor] = []
        first = subject.blocks[0]

        def record(block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            hidden, inputs = (inputs[0], inputs[1:]) if inputs else (options[HIDDEN], ())
            others = {name: value for name, value in options.items() if name != HIDDEN}
            self._others.setdefault(block, []).append((inputs, others))
            if block is first:
                self._hidden.append(hidden)

        handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in subject.blocks]
        try:
            for batch in windows.tokens.split(subject.batch(windows.tokens.shape[1])):
                subject.observe(batch)
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def run(self, block: nn.Module) -> list[Tensor]:
        """The output of a block for the streams in front of it."""
        outputs = []
        for hidden, (inputs, options) in zip(self._hidden, self._others[block], strict=True):
            output = block(hidden, *inputs, **options)
            outputs.append(output[0] if isinstance(output, tuple) else output)
        return outputs

    def behind(self, block: nn.Module) -> "BlockStream":
        """The streams behind the block that these stand in front of."""
        further = copy(self)
        further._hidden = self.run(block)
        return further
