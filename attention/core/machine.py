"""The machine in words, and what of it can be used."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from attention.core.errors import AttentionError


def processor() -> str:
    """The name of the CPU, and the instructions that torch uses of it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def device_name(device: torch.device) -> str:
    """A device as its maker names it, with what it can do."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({properties.major}.{properties.minor})"


def unusable(device: str) -> str | None:
    """Why nothing can be computed on a device, in torch's words; None where something can."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None


def check_device(device: str) -> None:
    """Refuse a device that cannot be used.

    Raises:
        AttentionError: nothing can be computed on it.
    """
    if reason := unusable(device):
        raise AttentionError(f"cannot run on device {device!r}: {reason}")


def version_of(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def software() -> dict[str, str]:
    """Versions of all that computes attention here."""
    toolkit = torch.version.cuda or torch.version.hip
    return {
        "platform": f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__ + (f" for CUDA or HIP {toolkit}" if toolkit else ", without a GPU"),
        "triton": version_of("triton") or "not installed",
        "flash-attn": version_of("flash-attn") or "not installed",
    }
