"""Keys that a cache keeps settled give what the keys themselves give, and are not worked on again."""

import pytest
import torch

import attention
from attention import AttentionError, RecurrentState, attend, get
from attention.core import l2norm
from attention.core.mechanism import Mechanism
from attention.forms.chunked import Chunked

SETTLING = [get("lssa"), get("lssar"), get("gaussian", normalise=True)]


def vectors(heads: int, length: int = 7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, length, heads, 8, dtype=dtype, generator=torch.Generator().manual_seed(heads))


@pytest.mark.parametrize("mechanism", [*map(get, attention.names()), SETTLING[-1]], ids=str)
def test_settled_keys_give_the_same_outputs(mechanism: Mechanism) -> None:
    query, key, value = vectors(4), vectors(2), vectors(2)
    kept = mechanism.settled(key)
    if not isinstance(mechanism, Chunked):
        found = attend(query, kept, value, mechanism, settled=True)
        torch.testing.assert_close(found, attend(query, key, value, mechanism), rtol=0, atol=1e-12)
    torch.testing.assert_close(mechanism.settled(kept), kept, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mechanism", SETTLING, ids=str)
def test_settled_keys_are_not_worked_on_again(mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch) -> None:
    met = []

    def normed(x: torch.Tensor, factor: torch.Tensor) -> None:
        met.append(x.shape[1])

    query, key, value = vectors(2, 1), vectors(2, 30), vectors(2, 30)
    kept = mechanism.settled(key)
    monkeypatch.setattr(l2norm, "_offered", [normed])
    attend(query, kept, value, mechanism, settled=True)
    assert met == [1]


def test_a_state_takes_keys_as_they_are() -> None:
    query = vectors(2)
    with torch.no_grad(), pytest.raises(AttentionError, match="a state takes keys as they are"):
        attend(query, query, query, "simrf", state=RecurrentState(), settled=True)
    with pytest.raises(AttentionError, match="settled must be"):
        attend(query, query, query, "lssar", settled=1)  # type: ignore[arg-type]
