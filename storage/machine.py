"""Describe the machine of a number: the processor, its cores, the GPU, the operating system, the commit."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from attention.core.machine import processor, unusable
from models.errors import ModelError


def machine() -> dict[str, str]:
    """Readable facts by name; a GPU only where there is one."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "platform": platform.platform(),
        "commit": _commit(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def words(facts: Mapping[str, object]) -> str:
    """Facts on one line of text."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_named(name: str) -> torch.device:
    """A device as the user names it.

    Raises:
        ModelError: there is no such device here, or what it computes has no numbers, as on "meta".
    """
    if reason := unusable(name):
        raise ModelError(f"device {name!r} cannot be used: {reason}")
    return torch.zeros(0, device=name).device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 natively; others emulate it, which is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capable = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(capable.get("avx512_bf16") or capable.get("amx_bf16"))


def _commit() -> str:
    """The commit of these sources, "+" where they were changed since; "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"
