"""One contract for every mechanism and kernel; the dense formula in float64 is the truth.

A root mean square error may be twice that of the formula run in the same dtype plus twice that of rounding, plus what
`trial.SLACK` says in float32; gradients of queries, keys, values and learned parameters are held to it as well.

Beside that every kernel is held to what a mechanism promises of its weights (`Mechanism.bounds`), which a formula with
the same flaw as a kernel cannot hide; and what no error can be judged by is told as an exemption, never as a success.

from attention.conformance import failures
failures(get("softpick"), "tiled")          # [] where all is well

`python -m attention.conformance` runs all of it and writes docs/capabilities.md. Numbers that a query may not see must
be finite: the formula multiplies them by zero, and zero times NaN is NaN, for it as for every kernel.
"""

from attention.conformance.checks import CHECKS, Check, cases, failures, of_this_machine, outcome
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
    "of_this_machine",
    "outcome",
    "run",
]
