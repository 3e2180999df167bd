"""The entropy of softmax rows, against the plain formula."""

import pytest
import torch

import attention
from attention import AttentionError


def test_entropy_and_its_gradient_are_those_of_the_formula():
    torch.manual_seed(0)
    query, key = torch.randn(2, 9, 4, 8, dtype=torch.float64), torch.randn(2, 9, 2, 8, dtype=torch.float64)
    documents = torch.tensor([[0] * 4 + [1] * 5, [-1] * 2 + [3] * 7])
    leaves = [query.requires_grad_(), key.requires_grad_()]
    found = attention.entropy(*leaves, documents=documents, window=4)

    def expected(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        score = torch.einsum("bthd,bshd->bths", query, key.repeat_interleave(2, 2)) / 8**0.5
        place = torch.arange(9)
        seen = (place[:, None] >= place) & (place[:, None] - place < 4)
        seen = seen & (documents[:, :, None] == documents[:, None]) & (documents >= 0)[:, None]
        score = score.masked_fill(~seen[:, :, None], -1e30)
        share = score.softmax(-1)
        plain = -(share * score.log_softmax(-1)).sum(-1)
        return plain.where((documents >= 0)[..., None], 0)

    truth = expected(*leaves)
    assert torch.allclose(found, truth, atol=1e-10)
    weight = torch.randn_like(truth)
    for one, other in zip(
        torch.autograd.grad(found, leaves, weight), torch.autograd.grad(truth, leaves, weight), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-9)


def test_only_softmax_has_one():
    query = torch.randn(1, 3, 2, 4)
    for name in ("softpick", "swat", "ssmax"):
        if name == "ssmax":
            assert attention.entropy(query, query, name).shape == (1, 3, 2)
        else:
            with pytest.raises(AttentionError, match="row_stats"):
                attention.entropy(query, query, name)
