"""Describe the machine that a figure was measured on, printed with every table."""

import os
import platform

import torch

from storage.machine import machine


def facts() -> dict[str, str]:
    """Processor, cores, threads, load of the last minute, device, versions and commit, by name."""
    return machine() | {
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "matmul precision": torch.get_float32_matmul_precision(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def describe(found: dict[str, str] | None = None) -> str:
    """The same in one line: of this machine, or of recorded facts."""
    found = found or facts()
    threads = f"{found['threads']} threads of {found['cores']} cores"
    device = found.get("gpu", found["processor"])
    versions = f"Python {found['python']}, torch {found['torch']}"
    precision = f"float32 matmul precision {found['matmul precision']}"
    load = f", load {found['load']}" if "load" in found else ""
    return f"{device}, {threads}{load}, {versions}, {precision}, commit {found['commit']}"
