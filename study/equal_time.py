"""Loss at equal time: beside what a variant reaches in as many steps, what it reaches in as much time.

A run of N steps that take t each takes T = N t. A variant is held against what the baseline reaches by a run of that
time, L₀(T): interpolated in ln T between the baseline's own runs of several lengths, the variants that differ from it
in `train.steps` alone, seed by seed. With the variant's loss L and the baseline's time T₀,

    bits at equal time = L − (L₀(T) − L₀(T₀)),

so that the difference from the baseline is L − L₀(T). Every run has its whole schedule: a curve that is read before
its end would hold a learning rate against the slower variant that has not come down yet. Beyond the lengths that the
baseline was trained for there is no number.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from common.errors import InputError
from eval.display import four
from eval.report.collection import Measured
from eval.report.columns import Column
from study.definition import Study
from study.speed import Speeds, slowdown

KEY = "bits_at_equal_time"

MEANING = (
    "Loss on held-out text, less what the baseline gains by training for as long as the variant takes: between its own "
    "runs of several lengths. Times are steps by the median of one, in turns; their error is not in the intervals."
)


Runs = Mapping[str, Mapping[int | None, Measured]]
"""Runs by variant and seed."""


def column(study: Study, speeds: Speeds | None, runs: Runs) -> Column:
    """The loss at equal time of each run; of none where steps have not been timed.

    Raises:
        InputError: the grid has no other length of the baseline.
    """
    if len(study.lengths) < 2:
        raise InputError(
            f"{study.path}: {KEY} needs a variant that differs from {study.file.baseline} in train.steps alone"
        )
    found = {} if speeds is None else dict(_carried(study, speeds, runs))
    return Column(
        key=KEY,
        group="Quality and cost",
        title="validation at equal time",
        unit="bits/byte",
        better="lower",
        source="training",
        show=four,
        of=lambda run: found.get(run.name),
        meaning=MEANING,
        headline=True,
    )


def untimed(study: Study) -> str:
    """The reason why there is no number where no speeds were measured."""
    return f"steps have not been timed; python -m study speed {study.path} does it"


def _carried(study: Study, speeds: Speeds, runs: Runs) -> Iterator[tuple[str, float]]:
    """By the name of a run: its loss at equal time; not a number where the baseline has no run as long."""
    base = study.file.baseline
    for seed, own in runs[base].items():
        longer = [runs[name][seed] for name in study.lengths if seed in runs[name]]
        curve = {run.step: _bits(run) for run in longer if run.step and math.isfinite(_bits(run))}
        if not curve:
            continue
        steps = sorted(curve)
        for variant in (base, *(name for name in runs if name not in study.lengths)):
            run = runs[variant].get(seed)
            if run is None or variant not in speeds.seconds:
                continue
            time = (run.step or 0) * slowdown(speeds, variant, base)
            reached = np.interp(
                np.log(time), np.log(steps), [curve[step] for step in steps], left=math.nan, right=math.nan
            )
            yield run.name, _bits(run) - float(reached) + _bits(own)


def _bits(run: Measured) -> float:
    bits = run.last("bits_per_byte")
    return math.nan if bits is None else bits
