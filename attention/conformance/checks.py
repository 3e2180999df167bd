"""The contract of a kernel: what is checked, and what a check finds."""

from collections.abc import Callable, Iterable

import torch

from attention.conformance import bounds, execution, masks, modes, precision, shapes
from attention.conformance.inputs import RefusedError
from attention.conformance.verdict import ConformanceError, exemptions
from attention.core.errors import AttentionError, nearest
from attention.core.mechanism import Mechanism
from attention.core.registry import get, names
from attention.kernels.dispatch import KERNELS
from attention.kernels.proof import waived

Check = Callable[[Mechanism, str, torch.device | str], None]
"""A check of (mechanism, kernel, device): raises ConformanceError where the contract is broken, RefusedError where the
kernel says that it does not serve such a call."""

CHECKS: dict[str, Check] = {
    "float64": precision.float64,
    "float32": precision.float32,
    "bfloat16": precision.bfloat16,
    "float16": precision.float16,
    "trained activations": precision.trained_activations,
    "bounds": bounds.bounds,
    "head dims": shapes.head_dims,
    "value dims": shapes.value_dims,
    "grouped heads": shapes.grouped_heads,
    "ragged lengths": shapes.ragged_lengths,
    "short lengths": shapes.short_lengths,
    "non-contiguous": shapes.non_contiguous,
    "window": masks.window,
    "documents": masks.documents,
    "not causal": masks.not_causal,
    "one key": masks.one_key,
    "empty rows": masks.empty_rows,
    "decode": masks.decode,
    "causality": masks.causality,
    "extreme scores": execution.extreme_scores,
    "in training": execution.in_training,
    "determinism": execution.determinism,
    "poisoned memory": execution.poisoned_memory,
    "torch.compile": execution.compiled,
    "forward mode": modes.forward_mode,
    "second derivatives": modes.second_derivatives,
    "torch.func": modes.transforms,
    "vmap": modes.vectorised,
    "recomputation": modes.recomputation,
    "no gradient": modes.surroundings,
}


def cases() -> list[Mechanism]:
    """Each registered mechanism at its defaults, followed by its variants."""
    return [get(name, **options) for name in names() for options in ({}, *get(name).variants)]


def outcome(mechanism: Mechanism, kernel: str, check: str, device: torch.device | str = "cpu") -> str:
    """The finding of a check.

    Returns:
        "yes", "exempt: " and what could not be judged and why, all else being right, "no: " and the kernel's own
        reason for refusing, or "FAILS: " and what was off. A check of many calls tries all of them, so that a refused
        one hides no failure.

    Raises:
        AttentionError: no such kernel or check.
    """
    if kernel not in KERNELS:
        raise AttentionError(f"unknown kernel {kernel!r}{nearest(kernel, KERNELS)}")
    if check not in CHECKS:
        raise AttentionError(f"unknown check {check!r}{nearest(check, CHECKS)}")
    try:
        with exemptions() as found, waived():
            CHECKS[check](mechanism, kernel, device)
    except RefusedError as refusal:
        return f"no: {refusal}"
    except ConformanceError as error:
        return f"FAILS: {error}"
    except Exception as error:
        return f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    reasons = (f"{reason}: {', '.join(places)}" for reason, places in found.items())
    return f"exempt: {'; '.join(reasons)}" if found else "yes"


def failures(
    mechanism: Mechanism, kernel: str, checks: Iterable[str] | None = None, device: torch.device | str = "cpu"
) -> list[str]:
    """The checks that fail, each as one line; empty where the kernel keeps the contract or refuses."""
    found = {
        check: outcome(mechanism, kernel, check, device) for check in (CHECKS if checks is None else checks)
    }
    return [f"{check}: {result}" for check, result in found.items() if result.startswith("FAILS")]


def of_this_machine(result: str) -> bool:
    """Whether a kernel refuses for what this processor lacks, which says nothing of others."""
    return result.startswith("no: this processor")
