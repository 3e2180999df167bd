"""Compiles C++ at first use and keeps the result, one shared library per source, compiler and processor."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shutil import which

import torch
from filelock import FileLock
from torch.utils import cpp_extension

from attention.errors import AttentionError
from attention.kernels.cache import cache_directory

HERE = Path(__file__).parent
FLAGS = ("-O3", "-ffp-contract=off", "-march=native", "-std=c++20", "-fPIC", "-shared", "-w")
COMPILERS = ("c++", "g++", "clang++")


class BuildError(AttentionError):
    """The C++ kernels cannot be had on this machine; says why and what would help."""


@cache
def compiler() -> str:
    """The C++ compiler: $CXX, else the first that is installed.

    Raises:
        BuildError: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        if path := which(name):
            return path
    raise BuildError(f"no C++ compiler was found ({wanted or ', '.join(COMPILERS)}): install g++ or set CXX")


@cache
def _platform() -> str:
    """All that the compiler predefines for this processor: its version and the instruction set."""
    command = [compiler(), "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, text=True).stdout


def build(name: str, source: str, *, flags: Sequence[str] = (), notice: str | None = None) -> Path:
    """The shared library of a source that may include this directory's headers; compiled if it is not there yet.

    Processes that want the same library wait for the first of them.

    Args:
        name: the beginning of the file's name.
        source: C++.
        flags: compiler and linker flags beyond FLAGS.
        notice: printed to stderr before compiling.

    Raises:
        BuildError: no compiler, or it refused; its last words are in the message.
    """
    headers = [header.read_text() for header in sorted(HERE.glob("*.h"))]
    content = "\0".join([source, *headers, *FLAGS, *flags, _platform()])
    library = cache_directory() / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock")):
            if not library.exists():
                if notice:
                    print(notice, file=sys.stderr, flush=True)
                _compile(source, flags, library)
    except OSError as error:
        raise BuildError(f"cannot write compiled kernels to {library.parent}: {error}") from error
    return library


def _compile(source: str, flags: Sequence[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        unit, made = Path(scratch) / "unit.cpp", Path(scratch) / library.name
        unit.write_text(source)
        command = [compiler(), *FLAGS, f"-I{HERE}", str(unit), "-o", str(made), *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise BuildError(f"{command[0]} failed to compile {library.stem}: {complaint}")
        made.replace(library)


def torch_flags() -> list[str]:
    """What a source that uses PyTorch needs."""
    return [
        *(f"-I{path}" for path in cpp_extension.include_paths()),
        *(f"-L{path}" for path in cpp_extension.library_paths()),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-DATTENTION_ZOO_TORCH={''.join(x for x in torch.__version__ if x.isalnum())}",
        "-fopenmp",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
