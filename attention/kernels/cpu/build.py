"""Compiles C++ at first use and keeps the result, one shared library per source, compiler and processor."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from shutil import which

import torch
from filelock import FileLock
from torch.utils import cpp_extension

from attention.core import cache as store
from attention.core.errors import AttentionError

HERE = Path(__file__).parent
FLAGS = ("-O3", "-ffp-contract=off", "-march=native", "-std=c++20", "-fPIC", "-shared", "-w")
PLACES = ("-I", "-L")
"""Flags that say where something lies and not what it is."""
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
def _processor() -> str:
    """Name the instruction sets, on which -march=native depends as far as it can be told without a compiler."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found = [line for line in lines if line.lower().startswith(("flags", "features", "isa"))]
        if found:
            return platform.machine() + found[0]
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def build(name: str, source: str, *, flags: Sequence[str] = (), notice: str | None = None) -> Path:
    """The shared library of a source that may include this directory's headers; compiled unless it is kept intact.

    Its name is a hash of sources, flags and processor, so that a library that was compiled once serves where there is
    no compiler any more. Processes that compile wait for one another.

    Args:
        name: the beginning of the file's name.
        source: C++.
        flags: compiler and linker flags beyond FLAGS.
        notice: printed to stderr before compiling.

    Raises:
        BuildError: the cache is not the user's own, there is no compiler, or it refused; its last words are in the
            message.
    """
    library = place_of(name, source, flags)
    folder = library.parent
    try:
        if store.trusted(folder) and store.intact(library):
            return library
        store.open_folder(folder)
        compiler()
        with FileLock(folder / ".compiling.lock", mode=0o600):
            if not store.intact(library):
                if notice:
                    print(notice, file=sys.stderr, flush=True)
                _compile(source, flags, library)
    except OSError as error:
        raise BuildError(f"cannot keep compiled kernels in {folder}: {error.strerror or error}") from error
    return library


def place_of(name: str, source: str, flags: Sequence[str] = ()) -> Path:
    """Return the path of a source's library, whether or not it is there; arguments and errors as of `build`."""
    given = [x for x in flags if not x.startswith(PLACES)]
    content = "\0".join([source, *_headers_of(source), *FLAGS, *given, _processor()])
    try:
        folder = store.cache_directory()
    except RuntimeError as error:
        raise BuildError(
            f"no folder for compiled kernels: {error}; set ATTENTION_ZOO_CACHE to one"
        ) from error
    return folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"


def look_for(name: str, source: str, flags: Sequence[str] = ()) -> None:
    """Whether the library is there, or a compiler to make it: nothing is compiled.

    Raises:
        BuildError: neither is.
    """
    if not place_of(name, source, flags).exists():
        compiler()


def _headers_of(source: str) -> list[str]:
    """The texts of this directory's headers that a source includes, those included by them, too, each once."""
    texts: dict[str, str] = {}
    waiting = [source]
    while waiting:
        for name in re.findall(r'^#include "(.*)"', waiting.pop(), re.MULTILINE):
            if name not in texts:
                texts[name] = (HERE / name).read_text(encoding="utf-8")
                waiting.append(texts[name])
    return [texts[name] for name in sorted(texts)]


def _compile(source: str, flags: Sequence[str], library: Path) -> None:
    with store.workspace(library.parent) as scratch:
        unit, made = scratch / "unit.cpp", scratch / library.name
        unit.write_text(source, encoding="utf-8")
        command = [compiler(), *FLAGS, f"-I{HERE}", str(unit), "-o", str(made), *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise BuildError(f"the compiler {command[0]} cannot be run: {error.strerror}") from error
        if done.returncode or not made.is_file():
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise BuildError(f"{command[0]} failed to compile {library.stem}: {complaint}")
        store.keep(made, library)


def load(library: Path, loader: Callable[[str], object]) -> None:
    """Give a built library to what loads it.

    Raises:
        BuildError: it cannot be loaded; it is made anew by the next process.
    """
    try:
        loader(str(library))
    except (OSError, RuntimeError) as error:
        store.discard(library)
        reason = str(error).splitlines()[0]
        raise BuildError(f"the compiled {library.name} cannot be loaded: {reason}") from error


def torch_flags() -> list[str]:
    """Return the compiler's arguments for a source that uses PyTorch."""
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
