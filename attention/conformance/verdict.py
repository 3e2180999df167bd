"""The verdict: an error of at most twice that of the formula, run as it is in the same precision."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from attention.conformance.inputs import Inputs, RefusedError, run
from attention.core.arguments import DTYPES, dtype_name
from attention.core.inputs import example
from attention.core.mechanism import Mechanism
from attention.forms.chunked import Chunked
from attention.forms.composite import Composite
from attention.functional import attend
from attention.kernels.dispatch import KERNELS
from attention.kernels.kernel import obstacle
from attention.kernels.trial import LEARNED, allowed, root_mean_square

SLACK = {torch.float64: 1e-8, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Root mean square error, of values of size one, that is rounding and not a wrong mask, shape or stride."""

CANCELLED = 10.0
"""Size of the terms of a score's gradient that cancel where a row sees one key: dP over the row's mass."""

MIXED = ("out", "query", "key", "value")
"""Names of results that have a position; the others are gradients of learned parameters."""


Exemptions = dict[str, dict[str, None]]
"""Why, and of what each; in order and once."""

_exempt: ContextVar[Exemptions | None] = ContextVar("_exempt", default=None)


@contextmanager
def exemptions() -> Iterator[Exemptions]:
    """Collects what `judge` lets pass unjudged while this is open."""
    found: Exemptions = {}
    token = _exempt.set(found)
    try:
        yield found
    finally:
        _exempt.reset(token)


def exempt(place: str, reason: str) -> None:
    """Tell whoever collects that something was not judged."""
    found = _exempt.get()
    if found is not None:
        found.setdefault(reason, {})[place] = None


class ConformanceError(AssertionError):
    """A kernel breaks the contract; one line says where and by how much."""


def dtypes(mechanism: Mechanism, kernel: str, device: torch.device | str) -> list[torch.dtype]:
    """The dtypes that a kernel takes, the most precise first.

    Raises:
        RefusedError: it takes none, for the reason that it gives in float32.
    """
    reasons = {
        dtype: obstacle(KERNELS[kernel], example(mechanism, dtype=dtype, device=device)) for dtype in DTYPES
    }
    taken = [dtype for dtype, reason in reasons.items() if reason is None]
    if not taken:
        raise RefusedError(reasons[torch.float32])
    return taken


Part = TypeVar("Part")


def each(parts: Iterable[Part], attempt: Callable[[Part], None]) -> None:
    """Attempt every part, so that a refused one hides no failure of the others.

    Raises:
        RefusedError: the first one, after all parts.
    """
    refusal = None
    for part in parts:
        try:
            attempt(part)
        except RefusedError as error:
            refusal = refusal or error
    if refusal:
        raise refusal


def compare(
    inputs: Inputs,
    mechanism: Mechanism,
    kernel: str,
    dtype: torch.dtype,
    what: str,
    *,
    floor: float = 0.0,
    call: Callable[..., Tensor] = attend,
    **masks: Any,
) -> None:
    """Run a call by a kernel and by the formula.

    Args:
        inputs: in float64; rounded to dtype first.
        what: names the call in the message.
        floor: as for `judge`.
        call: how the kernel is called, as for `run`.
        masks: as for `attend`.
    """
    rounded = inputs.to(dtype)
    result = run(rounded, mechanism, kernel, call=call, **masks)
    truth = run(rounded.to(torch.float64), mechanism, "dense", **masks)
    eager = eager_in_both_orders(rounded, mechanism, truth, **masks)
    judge(result, truth, eager, what, SLACK[dtype], floor, mixings(mechanism))


def eager_in_both_orders(
    inputs: Inputs, mechanism: Mechanism, truth: dict[str, Tensor], **masks: Any
) -> dict[str, Tensor]:
    """Run the formula in the inputs' precision, with the head dimension as it is and reversed.

    Where one score is small against its summands their last digits decide, and one order of the sum may be right by
    luck. Each result is the one further from the truth.
    """
    eager = run(inputs, mechanism, "dense", **masks)
    if mechanism.form is Chunked:  # its learned parameters and features tell head dimensions apart
        return eager
    other = run(inputs.reversed(), mechanism, "dense", **masks)
    other |= {name: other[name].flip(-1) for name in ("query", "key")}

    def further(name: str) -> Tensor:
        return max(eager[name], other[name], key=lambda x: root_mean_square(x - truth[name]))

    return {name: further(name) for name in eager}


def judge(
    result: dict[str, Tensor],
    truth: dict[str, Tensor],
    eager: dict[str, Tensor],
    what: str,
    slack: float = 0.0,
    floor: float = 0.0,
    mixings: int = 1,
) -> None:
    """Fail unless each root mean square error is at most twice that of `eager` plus twice that of rounding.

    A composite is allowed that for each of its mixings, since each of them rounds.

    Not judged are numbers that the dtype cannot hold, results of float16 calls on whose way the formula overflows, and
    the digits of what the formula itself returns as nothing but noise. Each is told to `exemptions`. All else must be
    finite.

    Args:
        result: output and gradients that are judged, in the precision that the truth is rounded to.
        truth: in float64; eager: the formula in the precision of the result.
        slack: allowed on top, relative to the truth's root mean square or `floor`, whichever is larger; for the
            gradient of a learned parameter, a sum over all positions, a hundredfold.
        floor: 1 where gradients cancel, so that nothing but rounding is left of them.
        mixings: of a composite, 1 for all others.
    """
    for name, expected in truth.items():
        actual, place = result[name], f"{what}, {name}"
        if actual.shape != expected.shape:
            raise ConformanceError(f"{place}: shape {list(actual.shape)}, expected {list(expected.shape)}")
        fits = judged(expected, eager[name], eager["out"].dtype, place)
        if not torch.isfinite(actual[fits]).all():
            raise ConformanceError(f"{place}: not finite")
        rounded = expected.to(actual.dtype)
        error, eager_error, rounding = (
            root_mean_square((x - expected)[fits]) for x in (actual, eager[name], rounded)
        )
        size = root_mean_square(expected[fits])
        if eager_error > max(0.1, 10 * size):
            exempt(place, "the formula itself returns noise")
            continue
        size = max(floor, size) * (1 if name in MIXED else LEARNED)
        most = allowed(eager_error, rounding, size, slack, mixings)
        if not error <= most:
            raise ConformanceError(
                f"{place}: error {error:.3g}, at most {most:.3g} is allowed "
                f"(the formula in this precision: {eager_error:.3g}, rounding: {rounding:.3g})"
            )


def mixings(mechanism: Mechanism) -> int:
    """Count the mixings that make its outputs."""
    return mechanism.mixings if isinstance(mechanism, Composite) else 1


def judged(truth: Tensor, eager: Tensor, dtype: torch.dtype, place: str) -> Tensor:
    """Mark the numbers that fit the dtype of `eager`; none if the formula in float16 overflows on the way to one.

    The gradient of a learned parameter is float32, and made of those of queries and keys in the call's dtype. What is
    left out is told to `exemptions`.
    """
    kind = dtype_name(dtype)
    fits = truth.abs() <= torch.finfo(eager.dtype).max / 2
    if not fits.all():
        exempt(place, f"more than {kind} holds")
    if dtype == torch.float16 and not torch.isfinite(eager[fits]).all():
        exempt(place, f"the formula overflows {kind}")
        return torch.zeros_like(fits)
    return fits


def equal(first: dict[str, Tensor], second: dict[str, Tensor], what: str) -> None:
    """Fail unless all tensors are the same, bit for bit."""
    for name, tensor in first.items():
        if not torch.equal(tensor, second[name]):
            difference = float((tensor - second[name]).abs().max())
            raise ConformanceError(f"{what}, {name}: not bit for bit the same, off by up to {difference:.3g}")
