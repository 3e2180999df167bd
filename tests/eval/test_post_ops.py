"""What analyses see of blocks with post-ops: the mechanism's own work, each map of a pair as a head."""

import pytest
import torch

from eval.analyses.heatmaps import _layer
from models import GPT, AttentionCall, ModelConfig, trace


@pytest.mark.parametrize(
    "changes", [{"differential": True, "gate": "elementwise"}, {"output_norm": True}], ids=str
)
def test_recomputed_weights_give_the_output_of_every_map(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "init_std": 0.2, "kernel": "tiled"}
    model = GPT(ModelConfig(preset="nano", attention="softmax*1,swat*1", **shape, **changes))  # type: ignore[arg-type]
    calls: list[AttentionCall] = []
    with torch.inference_mode(), trace(model, attention=calls.append):
        model(torch.randint(1024, (1, 12)))
    for call in calls:
        heads = _layer(call, 1).heads
        assert [head.head for head in heads] == [0, 1, 2, 3]
        assert all(head.residual < 1e-5 for head in heads)
