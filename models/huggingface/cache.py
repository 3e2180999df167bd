"""What a call of the model hands to the next one."""

from torch import Tensor

from models.cache import KVCache
from models.plan import Plan


class TextCache:
    """A `models.KVCache` behind the few methods that transformers calls while it generates.

    Attributes:
        kept: the cache itself.
    """

    def __init__(self, plan: Plan) -> None:
        self.kept = KVCache(plan)

    def __len__(self) -> int:
        return self.kept.length

    def __bool__(self) -> bool:
        return True

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions seen so far, padding included; of all layers alike."""
        return self.kept.length

    def reorder(self, rows: Tensor) -> None:
        """Put the texts of these rows, int [B], in the place of those of all rows: a beam may win several times."""
        self.kept.reorder(rows)

    def matching(self, documents: Tensor | None, tokens: Tensor) -> Tensor | None:
        """The documents of new tokens [B, T], spelled out where those of earlier ones had to be."""
        if documents is None and self.kept.length and self.kept.has_documents:
            return tokens.new_zeros(tokens.shape)
        return documents
