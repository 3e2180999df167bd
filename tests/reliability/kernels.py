"""Compiled kernels in a cache that is damaged, foreign, or not to be written.

Every trial is a process of its own that calls `attend` on a cache that was complete before. Survived is: the right
answer, from the library as it is or made anew, or from kernel "tiled" after one warning. The compiler that makes
libraries anew is a script that copies the intact ones, so that a trial takes seconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attention.core import cache
from attention.core.formula import formula_of
from attention.core.registry import get
from attention.kernels.cpu.build import HERE, BuildError, build, torch_flags
from attention.kernels.cpu.ops import NOTICE
from attention.kernels.cpu.printer import source
from tests.reliability import Trial

COUNT, FEW = 100, 4
NOBODY = 65534

CHILD = """
import json, sys, warnings
import torch
from attention import AttentionError, attend
from attention.kernels import dispatch
from attention.core.inputs import prepare
from attention.core.registry import get
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    query = torch.randn(1, 9, 2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = attend(query, query, query, "softpick")
    (gradient,) = torch.autograd.grad(out.square().sum(), query)
wide = query.detach().double().requires_grad_()
right = attend(wide, wide, wide, "softpick", kernel="dense")
(right_gradient,) = torch.autograd.grad(right.square().sum(), wide)
error = max((out - right).abs().max().item(), (gradient - right_gradient).abs().max().item())
kernel = dispatch.choose("auto", prepare(query, query, query, get("softpick"))).name
said = [str(x.message) for x in caught if "fused CPU kernel" in str(x.message)]
print(json.dumps({"error": error, "kernel": kernel, "warnings": said}))
"""

COPIER = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
cp "{pristine}/$(basename "$out")" "$out"
"""


@dataclass(frozen=True)
class Place:
    """A cache that a trial may spoil.

    Attributes:
        folder: the cache.
        engine, mechanism: its libraries.
        environment: of the process that uses it; CXX is the copying compiler.
    """

    folder: Path
    engine: Path
    mechanism: Path
    environment: dict[str, str]


Spoil = Callable[[Place], None]


def _bytes(change: Callable[[bytes], bytes], *, record: bool = False) -> Callable[[Path], None]:
    def spoil(library: Path) -> None:
        path = library.with_suffix(".json") if record else library
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _changed(content: bytes, count: int, mask: int) -> bytes:
    """So many bytes of the middle, with these bits turned."""
    start = (len(content) - count) // 2
    middle = bytes(x ^ mask for x in content[start : start + count])
    return content[:start] + middle + content[start + count :]


def _replaced_by_folder(library: Path) -> None:
    library.unlink()
    library.mkdir()


def _linked(library: Path) -> None:
    moved = library.rename(library.with_suffix(".moved"))
    library.symlink_to(moved)


def _pipe(library: Path) -> None:
    library.unlink()
    os.mkfifo(library)


def _owned(library: Path) -> None:
    os.chown(library, NOBODY, NOBODY)


LIBRARY: dict[str, Callable[[Path], None]] = {
    "as it was": lambda library: None,
    "cut in half": _bytes(lambda x: x[: len(x) // 2]),
    "cut by one byte": _bytes(lambda x: x[:-1]),
    "empty": _bytes(lambda x: b""),
    "zeros": _bytes(lambda x: bytes(len(x))),
    "garbage": _bytes(lambda x: b"not a library"),
    "bytes changed": _bytes(lambda x: _changed(x, 2000, 0x5A)),
    "one bit flipped": _bytes(
        lambda x: x[: len(x) // 3] + bytes([x[len(x) // 3] ^ 1]) + x[len(x) // 3 + 1 :]
    ),
    "bytes appended": _bytes(lambda x: x + b"\0"),
    "missing": Path.unlink,
    "a folder": _replaced_by_folder,
    "a link": _linked,
    "a pipe": _pipe,
    "writable by its group": lambda library: library.chmod(0o660),
    "writable by all": lambda library: library.chmod(0o666),
    "of another user": _owned,
    "its record missing": lambda library: library.with_suffix(".json").unlink(),
    "its record empty": _bytes(lambda x: b"", record=True),
    "its record garbage": _bytes(lambda x: b"\xff\x00{", record=True),
    "its record a list": _bytes(lambda x: b"[]", record=True),
    "its record null": _bytes(lambda x: b"null", record=True),
    "its record of wrong types": _bytes(lambda x: b'{"bytes": "1", "sha256": 5}', record=True),
    "its record nested": _bytes(lambda x: b"[" * 100_000, record=True),
    "its record of another user": lambda library: _owned(library.with_suffix(".json")),
    "its record writable by all": lambda library: library.with_suffix(".json").chmod(0o666),
}


def _compiler(path: str | None) -> Spoil:
    def spoil(place: Place) -> None:
        place.environment["CXX"] = path or "no-such-compiler"

    return spoil


def _cold(spoil: Spoil) -> Spoil:
    def both(place: Place) -> None:
        for path in place.folder.iterdir():
            path.unlink()
        spoil(place)

    return both


def _a_file(place: Place) -> None:
    shutil.rmtree(place.folder)
    place.folder.write_text("a file")


def _moved(where: str) -> Spoil:
    def spoil(place: Place) -> None:
        place.environment["ATTENTION_ZOO_CACHE"] = where

    return spoil


def _damaged_without_compiler(place: Place) -> None:
    place.engine.write_bytes(b"")
    _compiler(None)(place)


def _foreign_folder(place: Place) -> None:
    os.chown(place.folder, NOBODY, NOBODY)


def _locked_out(place: Place) -> None:
    """As where nothing can be written, which the superuser cannot be kept from otherwise."""
    place.engine.unlink()
    (place.folder / ".compiling.lock").mkdir()


def _read_only(place: Place) -> None:
    subprocess.run(["mount", "--bind", place.folder, place.folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place.folder], check=True)


def _read_only_with_a_gap(place: Place) -> None:
    place.mechanism.unlink()
    _read_only(place)


def _killed(place: Place) -> None:
    """A process killed while its compiler ran, and what it left."""
    place.engine.unlink()
    slow = place.folder.parent / "slow"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o700)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**place.environment, "CXX": str(slow)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(place.folder.glob(f"{cache.UNFINISHED}*/unit.cpp")):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(place.folder.glob(f"{cache.UNFINISHED}*")), "nothing was left behind"


SURROUNDINGS: dict[str, Spoil] = {
    "complete; no compiler": _compiler(None),
    "complete; a compiler that fails": _compiler("/bin/false"),
    "empty; no compiler": _cold(_compiler(None)),
    "empty; a compiler that fails": _cold(_compiler("/bin/false")),
    "empty; a compiler that makes nothing": _cold(_compiler("/bin/true")),
    "damaged; no compiler": _damaged_without_compiler,
    "no folder yet": lambda place: shutil.rmtree(place.folder),
    "a file": _a_file,
    "beneath a file": _moved("/dev/null/cache"),
    "a name too long": _moved("/tmp/" + "x" * 300),
    "in nobody's home": _moved("~nosuchuser/cache"),
    "cannot be locked": _locked_out,
    "read-only and complete": _read_only,
    "read-only with a gap": _read_only_with_a_gap,
    "of another user": _foreign_folder,
    "writable by its group": lambda place: place.folder.chmod(0o770),
    "writable by all": lambda place: place.folder.chmod(0o777),
    "writable by all, sticky": lambda place: place.folder.chmod(0o1777),
    "of a killed compilation": _killed,
}


def faults() -> list[tuple[str, str, Spoil]]:
    """Class, case and what spoils the cache."""

    def of(library: str, spoil: Callable[[Path], None]) -> Spoil:
        return lambda place: spoil(getattr(place, library))

    files = [
        (f"a library or its record: {name}", library, of(library, spoil))
        for name, spoil in LIBRARY.items()
        for library in ("engine", "mechanism")
    ]
    return files + [(f"the cache: {name}", name, spoil) for name, spoil in SURROUNDINGS.items()]


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Every fault once, or the most telling few."""
    chosen = faults()
    if count < len(chosen):
        telling = (
            "bytes changed",
            "of another user",
            "complete; no compiler",
            "read-only with a gap",
            "killed",
        )
        chosen = [next(x for x in reversed(chosen) if name in x[0]) for name in telling][:count]
    with tempfile.TemporaryDirectory() as scratch:
        pristine = Path(scratch) / "pristine"
        try:
            _fill(pristine)
        except BuildError as error:
            yield Trial("a compiler", str(error), outcome="not there: nothing was tried")
            return
        for number, (kind, case, spoil) in enumerate(chosen):
            folder = Path(scratch) / str(number) / "cache"
            shutil.copytree(pristine, folder)
            for path in (folder, *folder.iterdir()):
                path.chmod(0o700 if path.is_dir() else 0o600)
            try:
                yield _tried(kind, case, spoil, folder, pristine)
            finally:
                if f" {folder} " in Path("/proc/mounts").read_text():
                    subprocess.run(["umount", folder], check=True)


def _fill(pristine: Path) -> None:
    """Copies of the libraries in the user's cache, made there if they are not."""
    program = formula_of(get("softpick"))
    engine = build("engine", (HERE / "engine.cpp").read_text(), flags=torch_flags(), notice=NOTICE)
    pristine.mkdir(mode=0o700)
    for library in (engine, build(program.key, source(program))):
        for path in (library, library.with_suffix(".json")):
            shutil.copy(path, pristine)


def _tried(kind: str, case: str, spoil: Spoil, folder: Path, pristine: Path) -> Trial:
    copier = folder.parent / "c++"
    copier.write_text(COPIER.format(pristine=pristine))
    copier.chmod(0o700)
    environment = {**os.environ, "ATTENTION_ZOO_CACHE": str(folder), "CXX": str(copier)}
    engine, mechanism = next(folder.glob("engine-*.so")), next(folder.glob("softpick-*.so"))
    place = Place(folder, engine, mechanism, environment)
    try:
        spoil(place)
    except (PermissionError, subprocess.CalledProcessError) as error:
        return Trial(kind, case, outcome=f"not possible here ({type(error).__name__})")
    before = {path: path.stat().st_ino for path in (engine, mechanism) if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Trial(kind, case, failure=f"exit {done.returncode}: {last}")
    found = json.loads(done.stdout)
    if not found["error"] < 1e-5:
        return Trial(kind, case, failure=f"wrong by {found['error']:.1e}")
    if found["kernel"] == "tiled":
        said = found["warnings"]
        return Trial(
            kind, case, *(("tiled, one warning",) if len(said) == 1 else ("", f"{len(said)} warnings"))
        )
    if found["kernel"] != "cpu" or found["warnings"]:
        return Trial(kind, case, failure=f"{found['kernel']} after {len(found['warnings'])} warnings")
    if left := [path.name for path in folder.glob(f"{cache.UNFINISHED}*")]:
        return Trial(kind, case, failure=f"left behind: {left}")
    for path in (engine, mechanism):
        if not cache.intact(path):
            return Trial(kind, case, failure=f"{path.name} was loaded but is not intact")
    same = all(path.stat().st_ino == before.get(path) for path in (engine, mechanism))
    return Trial(kind, case, "served as it is" if same else "made anew")
