"""Memory of a step, counted."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Saved:
    """The storages that autograd keeps for a backward pass, each once.

    Attributes:
        total: their bytes.
        tensors: one tensor of each, in the order in which they were kept.
    """

    def __init__(self, without: Iterable[Tensor] = ()) -> None:
        self._seen = {_storage(tensor) for tensor in without}
        self.tensors: list[Tensor] = []
        self.total = 0

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, unless it was counted before."""
        if (storage := _storage(tensor)) not in self._seen:
            self._seen.add(storage)
            # Kept alive: a freed storage's place may be another's next.
            self.tensors.append(tensor.detach())
            self.total += tensor.untyped_storage().nbytes()
        return tensor


@contextmanager
def saved_bytes(without: Iterable[Tensor] = ()) -> Iterator[Saved]:
    """While open, what autograd saves is counted; `without` is there anyway, like parameters.

    It sees storages, not shapes: a view of a larger tensor keeps the whole.
    """
    saved = Saved(without)
    with saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
