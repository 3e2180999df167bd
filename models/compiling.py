"""What `torch.compile` needs on this machine."""

import os
import sys
from shutil import which

import torch

from models.errors import ModelError


def check_compiler(device: torch.device, option: str) -> None:
    """Refuse what would end in the compiler's own error after all has been made ready.

    Args:
        device: to compile for; on a CPU that takes a C++ compiler.
        option: that asks for it, as the user writes it.

    Raises:
        ModelError: there is no C++ compiler.
    """
    wanted = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and which(wanted) is None:
        raise ModelError(
            f"{option} needs a C++ compiler on a CPU, and {wanted} was not found: install g++, set CXX, or leave it out"
        )
