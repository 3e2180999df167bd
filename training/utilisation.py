"""The share of a device's rate that training uses: of its published peak, which is MFU, and of a product measured here.

MFU is as in PaLM (Chowdhery et al., arXiv 2204.02311, appendix B): the operations that a step needs at least, over
what the maker's data sheet promises in its time.
"""

import re
from typing import NamedTuple

import torch

from training.config import TrainConfig
from training.telemetry import matmul_rate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What `train.precision` multiplies in."""


class Peak(NamedTuple):
    """TFLOP/s of one device: in bfloat16 and float16, in float32 rounded to TF32, and in float32.

    Of dense products, without structured sparsity, half precision accumulated in float32.
    """

    half: float
    tf32: float
    fp32: float


PEAKS = {
    "B200": Peak(2250, 1125, 75),
    "H200": Peak(989.4, 494.7, 66.9),
    "H100 PCIe": Peak(756, 378, 51),
    "H100 NVL": Peak(835, 417.5, 60),
    "H100": Peak(989.4, 494.7, 66.9),
    "A100": Peak(312, 156, 19.5),
    "A10": Peak(125, 62.5, 31.2),
    "L40S": Peak(362, 183, 91.6),
    "L4": Peak(121, 60, 30.3),
    "RTX 4090": Peak(165.2, 82.6, 82.6),
    "RTX 3090": Peak(71, 35.6, 35.6),
    "MI300X": Peak(1307.4, 653.7, 163.4),
}
"""By a part of the name that torch gives a device; the first that is found in it counts."""


def published_peak(device: str, precision: str, float32_matmul: str) -> float | None:
    """FLOP/s of a device by its name, None where it is not in the table.

    Args:
        device: like "NVIDIA H100 80GB HBM3".
        precision: "fp32", "bf16" or "fp16".
        float32_matmul: "highest", or "high" and "medium", which round float32 to TF32.
    """
    for name, peak in PEAKS.items():
        if re.search(rf"\b{re.escape(name)}\b", device):
            if precision != "fp32":
                return peak.half * 1e12
            return (peak.fp32 if float32_matmul == "highest" else peak.tf32) * 1e12
    return None


class Utilisation:
    """What training at some speed makes of the devices that it runs on.

    Attributes:
        measured: FLOP/s of one large product on every device, together.
        published: what their data sheets say, together; None for devices that are not in the table, as CPUs.
    """

    def __init__(self, train: TrainConfig, device: torch.device, processes: int, work: float) -> None:
        """Measure a device of `processes` alike; `work` is FLOP per token of training."""
        self._work = work
        self.measured = processes * matmul_rate(device, DTYPES[train.precision])
        peak = None
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            peak = published_peak(name, train.precision, train.float32_matmul)
        self.published = None if peak is None else processes * peak

    def at(self, rate: float) -> dict[str, float]:
        """The shares used at so many tokens per second, by the names under which they are logged."""
        found = {"matmul_utilisation": rate * self._work / self.measured}
        return found if self.published is None else {"mfu": rate * self._work / self.published} | found
