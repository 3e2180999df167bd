"""Softmax that a row's own entropy sharpens."""

import pytest
import torch

import attention
from attention import AttentionError, Phase
from attention.conformance import make, run

MECHANISM = attention.get("adaptive_softmax")


def test_at_rest_it_is_softmax_to_every_kernel():
    inputs = make(queries=20).to(torch.float32)
    resting = {"phase": Phase(training=True)}
    found = run(inputs, MECHANISM, "sdpa", **resting)
    for name, expected in run(inputs, attention.get("softmax"), "sdpa").items():
        assert torch.equal(found[name], expected)
    with pytest.raises(AttentionError, match="it computes softmax only"):
        attention.attend(inputs.query, inputs.key, inputs.value, MECHANISM, kernel="sdpa")
    always = attention.get("adaptive_softmax", when="always")
    with pytest.raises(AttentionError, match="it computes softmax only"):
        attention.attend(inputs.query, inputs.key, inputs.value, always, kernel="sdpa", **resting)


@pytest.mark.parametrize("kernel", ["dense", "tiled", "cpu"])
def test_rows_that_spread_over_many_keys_stay_as_they_are(kernel):
    """beta is 1 from 5.94 nats on, which 600 keys of nearly equal scores exceed, and above it for 100."""
    inputs = make(queries=600, spread=0.1).to(torch.float32)
    sharp, plain = (run(inputs, x, kernel)["out"] for x in (MECHANISM, attention.get("softmax")))
    torch.testing.assert_close(sharp[:, 500:], plain[:, 500:], rtol=1e-5, atol=1e-6)
    assert (sharp[:, 100:200] - plain[:, 100:200]).abs().max() > 1e-3


@pytest.mark.parametrize("when", ["evaluation", "gradient"])
@pytest.mark.parametrize("kernel", ["tiled", "cpu"])
def test_scores_whose_difference_is_beyond_float32_weigh_one_key(kernel, when):
    inputs = make(queries=12, key_heads=4, head_dim=16).to(torch.float32)
    with torch.no_grad():
        inputs.query.zero_()[..., 0] = 1e19
        inputs.key.zero_()[..., 0] = -3e19
        inputs.key[:, 3, :, 0] = 3e19
    found = run(inputs, attention.get("adaptive_softmax", when=when), kernel, scale=1.0)
    chosen = inputs.value[:, 3:4].expand(-1, 9, -1, -1)
    torch.testing.assert_close(found["out"][:, 3:], chosen.detach())
    assert all(torch.isfinite(x).all() for x in found.values())
