"""One contract for every mechanism and kernel; the dense formula in float64 is the truth.

from attention.conformance import failures
failures(get("softpick"), "tiled")          # [] where all is well

`python -m attention.conformance` runs all of it and writes docs/capabilities.md. Numbers that a query may not see must
be finite: the formula multiplies them by zero, and zero times NaN is NaN, for it as for every kernel.
"""

from attention.conformance.checks import CHECKS, Check, cases, failures, outcome
from attention.conformance.inputs import Inputs, RefusedError, make, run
from attention.conformance.verdict import ConformanceError

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "Inputs",
    "RefusedError",
    "cases",
    "failures",
    "make",
    "outcome",
    "run",
]
