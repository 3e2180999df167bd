"""The evidence of a study: means with intervals, differences from the baseline, noise, verdicts.

The unit is the seed. Differences are taken seed by seed, since runs of one seed share initial weights, data and order.
Intervals are Student's, 95 %, each by itself; verdicts on claims are corrected for the number of claims.
"""

from dataclasses import dataclass, field, replace

from common.errors import InputError, nearest
from eval import provenance
from eval.report.collection import Measured, measured
from eval.report.comparison import columns
from eval.report.numbers import Number, number
from eval.report.pairs import Group
from eval.subject import open_subject
from study import claims, equal_time, speed
from study.claims import Verdict
from study.definition import Study, options_of
from study.tasks import chosen, losses, states

Runs = dict[str, dict[int | None, Measured]]
"""The runs that have been trained and measured, by variant and seed; the baseline's first."""


@dataclass(frozen=True)
class Choice:
    """The value of the tuned key that a variant was given, and the loss in bits per byte with each.

    Attributes:
        value: None where none is chosen yet.
        losses: mean over the seeds that choose, by value.
    """

    value: float | None
    losses: dict[float, float]

    @property
    def shown(self) -> str:
        """The value, and whether one beyond those that were tried may be better."""
        if self.value is None:
            return "–"
        edge = len(self.losses) > 1 and self.value in (min(self.losses), max(self.losses))
        return f"{self.value:g}{' (at the edge)' if edge else ''}"


@dataclass(frozen=True)
class Evidence:
    """All that a study has found so far.

    Attributes:
        study: that was run.
        runs: that have been measured.
        numbers: those of the first page, then those that only claims are about.
        verdicts: in the order of the claims.
        choices: by variant, where a key was tuned.
        missing: tasks that have not ended well, with their state, and runs that lack what is read of them.
    """

    study: Study
    runs: Runs
    numbers: list[Number]
    verdicts: list[Verdict]
    choices: dict[str, Choice] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def number(self, key: str) -> Number | None:
        """The number of this key; None where nothing measures it."""
        return next((number for number in self.numbers if number.key == key), None)


def collect(study: Study) -> Runs:
    """Read the runs of a study that have been trained and measured, the baseline's first.

    Raises:
        InputError: there are none, or one lies in the folder of another.
    """
    found: Runs = {
        variant: {} for variant in sorted(study.variants, key=lambda name: name != study.file.baseline)
    }
    with provenance.read_once():
        for task, state in states(study).items():
            if task.value is None and state == "done":
                run = measured(open_subject(study.folder / task.name), task.name)
                if run.config is not None and run.config.get("name") != task.name:
                    raise InputError(
                        f"{run.path} holds the run {run.config.get('name')}; put each back in its place"
                    )
                found[task.variant][task.seed] = run
    if not any(found.values()):
        raise InputError(f"no run of {study.name} has been measured yet: python -m study run {study.path}")
    return found


def gather(study: Study) -> Evidence:
    """The evidence of a study from what has been measured so far.

    Raises:
        InputError: nothing has been measured, or the runs have no number of a name in `metrics`.
    """
    runs = collect(study)
    every = [run for some in runs.values() for run in some.values()]
    known = {column.key: column for column in columns(every)}
    wanted = dict.fromkeys([*study.file.metrics, *(claim.metric for claim in study.file.claims)])
    speeds = speed.read(study)
    if equal_time.KEY in wanted:
        known[equal_time.KEY] = equal_time.column(study, speeds, runs)
    unknown = {
        key: f"no number {key!r} was measured{nearest(key, known)}" for key in wanted if key not in known
    }
    if odd := [key for key in study.file.metrics if key in unknown]:
        raise InputError(f"{study.path}: {unknown[odd[0]]}; the analyses of the study decide which there are")
    groups = [Group(variant, some) for variant, some in runs.items()]
    numbers = [number(known[key], groups) for key in wanted if key in known]
    if speeds is not None and study.file.baseline in speeds.seconds:
        numbers.append(speed.number(speeds, groups))
    tuned = study.file.tuning is not None
    # Claims are sealed: one about a number that nothing measures must not cost the verdicts on the others.
    why = unknown | {
        number.key: f"the runs were measured differently ({', '.join(number.odd)})"
        for number in numbers
        if number.odd
    }
    if speeds is None:
        why[equal_time.KEY] = equal_time.untimed(study)
    verdicts = claims.verdicts(
        study.file.claims, {number.key: _by_seed(number) for number in numbers if not number.odd}
    )
    return Evidence(
        study,
        runs,
        numbers,
        [
            replace(found, why=why[found.claim.metric]) if found.claim.metric in why else found
            for found in verdicts
        ],
        {name: Choice(chosen(study, name), losses(study, name) or {}) for name in study.variants}
        if tuned
        else {},
        {task.name: state for task, state in states(study).items() if state != "done"}
        | _lacking(study, every),
    )


def _lacking(study: Study, runs: list[Measured]) -> dict[str, str]:
    """By run: what of its log and of the analyses of the study cannot be read, and why."""
    wanted = ["training", *(options_of(line)[0] for line in study.file.analyses)]
    found = {
        run.name: [f"{kind}: {run.missing[kind]}" for kind in wanted if kind in run.missing] for run in runs
    }
    return {name: ", ".join(lacking) for name, lacking in found.items() if lacking}


def _by_seed(number: Number) -> dict[str, dict[int, float]]:
    """The values of a number; every run of a study has a seed."""
    return {
        variant: {seed: value for seed, value in some.items() if seed is not None}
        for variant, some in number.values.items()
    }
