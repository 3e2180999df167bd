"""What `torch.compile` needs on this machine."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch

from models.errors import ModelError


def check_compiler(device: torch.device, option: str) -> None:
    """Refuse what would end in the compiler's own error after all has been made ready.

    Args:
        device: to compile for; on a CPU that takes a C++ compiler and the headers of Python.
        option: that asks for it, as the user writes it.

    Raises:
        ModelError: one of them is not there.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type != "cpu":
        return
    try:
        # As torch tries it: CXX may name a folder, a program that is none, or one with options, which torch cannot run.
        subprocess.run([wanted, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise ModelError(
            f"{option} needs a C++ compiler on a CPU, and {wanted or 'an empty CXX'} "
            f"{'was not found' if missing else 'is none that runs'}: install g++, set CXX, or leave it out"
        ) from error
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise ModelError(
            f"{option} needs the headers of Python on a CPU, and {headers}/Python.h was not found: install them "
            "(python3-dev on Debian), or leave it out"
        )
