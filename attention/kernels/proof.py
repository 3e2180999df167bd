"""Code that was compiled here proves itself on the device that runs it, before it is given a call.

At the first call of a kind (`trial.Case`) a small one is tried and judged by the formula (`trial.attempt`), in a
fraction of a second beside the compiler's. The verdict is kept in the cache, under all that it depends on; what is read
there is checked, and tried anew where it is not such a verdict. A kernel that fails is left out by "auto", with a
warning, and refused where it is asked for by name. After that a call costs the look into a dictionary.

The trial runs in a thread of its own, and so sees nothing of the caller's modes: no autocast, no hooks, no transform,
no fake tensors, no compiler's trace. It draws from no generator of the caller's. Where even that would disturb, while a
CUDA graph is captured or gradients are computed, it waits for the next call.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from operator import index
from pathlib import Path

import torch

from attention.core import cache as store
from attention.core.arguments import dtype_name
from attention.core.inputs import AttentionInputs
from attention.core.machine import device_name, version_of
from attention.core.mechanism import Mechanism
from attention.kernels.kernel import Kernel, elementary
from attention.kernels.trial import MOST, Case, Verdict, attempt

REPORT = "run `python -m attention.check`, which tries again, and report its page"

UNKNOWN = "not tried yet"

_waived: ContextVar[bool] = ContextVar("_waived", default=False)

_known: dict[tuple[object, ...], str | None] = {}
"""What is wrong with a kernel in a case, by its name and the fields of the case."""


@contextmanager
def waived() -> Iterator[None]:
    """No proof is asked for while this is open: for those who judge kernels themselves."""
    token = _waived.set(True)
    try:
        yield
    finally:
        _waived.reset(token)


def flaw(kernel: Kernel, inputs: AttentionInputs, *, aloud: bool = False) -> str | None:
    """Say what the trial of a kernel found wrong in calls like this one, None where it may serve them.

    Args:
        kernel: one that nothing hinders (`kernel.obstacle`).
        inputs: the call.
        aloud: whether to warn of it, once.
    """
    if inputs.vacant or (kernel.proves_when_run and torch.compiler.is_compiling()):
        return None
    _, _, heads, head_dim = inputs.scores.query.shape
    _, _, key_heads, value_dim = inputs.value.shape
    # As an index, a size that torch.compile leaves open becomes a number.
    device, sizes = inputs.value.device, (index(head_dim), index(value_dim), index(heads // key_heads))
    for mechanism, dtype, with_mass in elementary(kernel, inputs):
        found = _flaw(kernel, mechanism, dtype, device, *sizes, with_mass, aloud)
        if found is not None:
            return found
    return None


def renew(kernel: Kernel, case: Case) -> Verdict | None:
    """Try a kernel again, whatever is kept; None where it has nothing to prove, or nothing can be told."""
    code = kernel.code(case.mechanism)
    if code is None:
        return None
    verdict = _tried(kernel, case)
    if verdict is not None:
        _keep(_facts(kernel, case, code), verdict)
        _known[kernel.name, *(getattr(case, field.name) for field in fields(case))] = verdict.flaw
    return verdict


@torch.compiler.assume_constant_result
def _flaw(
    kernel: Kernel,
    mechanism: Mechanism,
    dtype: torch.dtype,
    device: torch.device,
    head_dim: int,
    value_dim: int,
    group: int,
    with_mass: bool,
    aloud: bool,
) -> str | None:
    key = (kernel.name, mechanism, dtype, device, head_dim, value_dim, group, with_mass)
    found = _known.get(key, UNKNOWN)
    if found is None or _waived.get():
        return None
    case = Case(mechanism, dtype, device, head_dim, value_dim, group, with_mass)
    if found is UNKNOWN:
        if _busy(device):
            return None
        found = _known[key] = _verdict(kernel, case)
        if found is None:
            return None
    if aloud:
        _warn(f"kernel {kernel.name!r} is left out for {_named(case)}: {found}; {REPORT}")
    return f"it failed its trial on {device_name(device)}: {found}; {REPORT}"


def _busy(device: torch.device) -> bool:
    """Whether other work on the device would be recorded, or wait for what waits for it."""
    if torch._C._current_graph_task_id() != -1:
        return True
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _verdict(kernel: Kernel, case: Case) -> str | None:
    """The flaw that is kept, or that a trial finds now."""
    code = kernel.code(case.mechanism)
    if code is None:
        return None
    facts = _facts(kernel, case, code)
    verdict = _kept(facts)
    if verdict is None:
        verdict = _tried(kernel, case)
        if verdict is None:
            return None
        _keep(facts, verdict)
    return verdict.flaw


def _tried(kernel: Kernel, case: Case) -> Verdict | None:
    """A trial in a thread of its own; None where the formula itself cannot be run, which says nothing of the kernel."""

    def alone() -> Verdict | None:
        with waived():
            try:
                return attempt(kernel, case)
            except Exception:
                return None

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(alone).result()


def _facts(kernel: Kernel, case: Case, code: str) -> dict[str, object]:
    """All that a verdict depends on."""
    return {
        "kernel": kernel.name,
        "code": code,
        "trial": sources(Path(__file__).with_name("trial.py")),
        "mechanism": repr(case.mechanism),
        "dtype": dtype_name(case.dtype),
        "sizes": [case.head_dim, case.value_dim, case.group],
        "with mass": case.with_mass,
        "device": device_name(case.device),
        "torch": torch.__version__,
        "triton": version_of("triton"),
    }


def _kept(facts: dict[str, object]) -> Verdict | None:
    """The verdict that is kept under these facts; None where there is none, or something else."""
    note = _note(facts)
    found = None if note is None else store.recall(note)
    if not isinstance(found, dict) or found.keys() != {"of", "ratio", "flaw"} or found["of"] != facts:
        return None
    ratio, said = found["ratio"], found["flaw"]
    if not isinstance(said, str | None) or not isinstance(ratio, float | None):
        return None
    if said is None and not (ratio is not None and 0 <= ratio <= MOST):
        return None
    return Verdict(math.nan if ratio is None else ratio, said)


def _keep(facts: dict[str, object], verdict: Verdict) -> None:
    """Keep a verdict where that is possible; the next process tries again where it is not."""
    note = _note(facts)
    ratio = verdict.ratio if math.isfinite(verdict.ratio) else None
    with suppress(OSError):
        if note is not None:
            store.remember(note, {"of": facts, "ratio": ratio, "flaw": verdict.flaw})


def _note(facts: dict[str, object]) -> Path | None:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    try:
        return _folder() / f"{facts['kernel']}-{digest}.json"
    except RuntimeError:
        return None


def _folder() -> Path:
    return store.cache_directory() / "trials"


@cache
def sources(*paths: Path) -> str:
    """A digest of files, and of the Python files of folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _named(case: Case) -> str:
    return f"{case.mechanism.name} in {dtype_name(case.dtype)} on {device_name(case.device)}"


@cache
def _warn(line: str) -> None:
    """Say it once."""
    warnings.warn(line, stacklevel=2)
