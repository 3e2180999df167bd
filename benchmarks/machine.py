"""What a figure was measured on, printed with every table."""

import platform

import torch

from models.machine import machine


def describe() -> str:
    """One line: processor, cores, device, versions, commit."""
    facts = machine()
    threads = f"{torch.get_num_threads()} threads of {facts['cores']} cores"
    device = facts.get("gpu", facts["processor"])
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{device}, {threads}, {versions}, commit {facts['commit']}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
