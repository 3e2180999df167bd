"""Sentences on the numbers of a comparison, and checks of how far a reader may trust them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval import catalogue
from eval.display import Compared
from eval.report.collection import Measured
from eval.report.columns import Column
from eval.report.comparison import columns, disagreements, known
from eval.report.pairs import compare, groups

CHOSEN = ("name", "out", "seed", "model.attention", "model.attention_options")
"""Config keys in which compared runs are meant to differ."""

MORE = 0.01
"""Share of parameters from which on models count as unequally large."""


@dataclass(frozen=True)
class Check:
    """One condition of a fair comparison: whether it holds (None: unknown), and what was found."""

    holds: bool | None
    claim: str
    detail: str = ""


def findings(runs: Sequence[Measured]) -> list[str]:
    """The findings, a sentence each, the most important first."""
    every = columns(runs)
    (quality,) = (column for column in every if column.key == "bits_per_byte")
    sentences = [*_quality(quality, runs)]
    for name, analysis in catalogue.every().items():
        mine = {column.key: _compared(column, runs) for column in every if column.source == name}
        sentences += analysis.sentences(mine)
    outdated = [run.name for run in runs if run.outdated]
    if outdated:
        sentences.append(f"Numbers with a † would now be measured otherwise: {', '.join(outdated)}.")
    measured = {name for run in runs for name in run.results} | {"training"}
    absent = sorted({name for run in runs for name in run.missing if name in measured})
    if absent:
        sentences.append(f"Missing for at least one run: {', '.join(absent)}.")
    return sentences


def checks(runs: Sequence[Measured]) -> list[Check]:
    """Whether the runs may be compared."""
    if len(runs) == 1:
        return [Check(None, "One run: there is nothing to compare.")]
    return [
        _same("The same data (corpus and tokenizer)", runs, lambda run: (run.record or {}).get("data")),
        _tokens(runs),
        _same("The same training length", runs, lambda run: run.train_length),
        _size(runs),
        _configs(runs),
        _protocols(runs),
        *_seeds(runs),
    ]


def _quality(column: Column, runs: Sequence[Measured]) -> Iterator[str]:
    """Differences over seeds where there are several, else what each run reached, which is no comparison."""
    numbers = known(column, runs)
    if not numbers:
        return
    if len(numbers) == 1:
        yield f"{numbers[0][0].name} reaches {numbers[0][1]:.4f} bits per byte on held-out text."
    elif any(len(group.runs) > 1 for group in groups(runs)):
        yield from _over_seeds(column, runs)
    else:
        yield _single(column, runs, numbers)


def _over_seeds(column: Column, runs: Sequence[Measured]) -> Iterator[str]:
    """A sentence for each group, the lowest first; nothing of it depends on a single run or on the order of runs."""
    found = sorted(compare(column, runs), key=lambda paired: (paired.interval.mean, paired.group))
    for paired in found:
        low, high, mean = paired.interval.low, paired.interval.high, paired.interval.mean
        differs = f"{paired.group} differs from {paired.baseline} by {column.signed(mean)} bits per byte"
        if len(paired.seeds) == 1:
            yield f"With one seed in common {differs}, which says nothing of other seeds."
        elif low is None or high is None:
            yield f"Over {len(paired.seeds)} seeds {differs}, by the same with each, so that there is no interval."
        else:
            yield (
                f"Over {len(paired.seeds)} seeds {differs}, with a 95 % interval of {column.signed(low)} to "
                f"{column.signed(high)}, which {'leaves out' if paired.interval.sign else 'includes'} zero."
            )
    if not found:
        yield "No two mechanisms have a seed in common that was measured alike, so that none is compared."


def _single(column: Column, runs: Sequence[Measured], numbers: Sequence[tuple[Measured, float]]) -> str:
    (best, low), (worst, high) = numbers[0], numbers[-1]
    base = next(iter(groups(runs)[0].runs.values()))
    against = {run.name: value for run, value in numbers}.get(base.name)
    sentence = f"{best.name} reaches the lowest loss on held-out text, {low:.4f} bits per byte"
    if disagreements(column, runs):
        return f"{sentence}; but the runs do not share data and length, so these numbers do not compare."
    if best is base or against is None:
        sentence += f", and {worst.name} the highest, {high:.4f} ({high / low - 1:+.1%})"
    else:
        sentence += f", against {against:.4f} of {base.name} ({low / against - 1:+.1%})"
    return f"With one seed each, which says nothing of other seeds, {sentence}."


def _means(column: Column, runs: Sequence[Measured]) -> list[tuple[str, float]]:
    """The mean of each mechanism over its seeds, the smallest first."""
    found = []
    for group in groups(runs):
        values = [value for _, value in known(column, list(group.runs.values()))]
        if values:
            found.append((group.name, sum(values) / len(values)))
    return sorted(found, key=lambda entry: (entry[1], entry[0]))


def _compared(column: Column, runs: Sequence[Measured]) -> Compared:
    return Compared(_means(column, runs), not disagreements(column, runs), column.show, column.length)


def _size(runs: Sequence[Measured]) -> Check:
    """A few parameters of the mechanism itself do no harm; the detail says what share they are."""
    claim = "The same number of parameters"
    least, most = (pick(runs, key=lambda run: run.parameters) for pick in (min, max))
    share = most.parameters / least.parameters - 1
    if not share:
        return Check(True, claim, f"{least.parameters:,}")
    extremes = f"{least.name} {least.parameters:,}, {most.name} {most.parameters:,}"
    if share < MORE:
        return Check(True, claim, f"the same within {100 * share:.2g} %: {extremes}")
    return Check(False, claim, f"{100 * share:.2g} % more: {extremes}")


def _same(claim: str, runs: Sequence[Measured], of: Callable[[Measured], Any]) -> Check:
    values = {run.name: of(run) for run in runs}
    unknown = [name for name, value in values.items() if value is None]
    if unknown:
        return Check(None, claim, f"not recorded for {', '.join(unknown)}")
    shown = {
        name: f"{value:,}" if isinstance(value, int) else str(value)[:12] for name, value in values.items()
    }
    if len(set(values.values())) == 1:
        return Check(True, claim, next(iter(shown.values())))
    return Check(False, claim, ", ".join(f"{name} {value}" for name, value in shown.items()))


def _configs(runs: Sequence[Measured]) -> Check:
    claim = "Configs that differ in the attention mechanism only"
    if any(run.config is None for run in runs):
        return Check(None, claim, "not all models were trained by this project")
    flat = [dict(_flat(run.config or {})) for run in runs]
    differing = [
        key
        for key in sorted({key for entries in flat for key in entries})
        if not any(key == chosen or key.startswith(f"{chosen}.") for chosen in CHOSEN)
        and any(entries.get(key) != flat[0].get(key) for entries in flat)
    ]
    found = (f"{key}: {', '.join(str(entries.get(key)) for entries in flat)}" for key in differing)
    return Check(not differing, claim, "; ".join(found))


def _protocols(runs: Sequence[Measured]) -> Check:
    differing: dict[str, dict[str, None]] = {}
    measured = [column for column in columns(runs) if column.source not in ("model", "training")]
    for column in measured:
        if what := disagreements(column, runs):
            differing.setdefault(column.source, {}).update(dict.fromkeys(what))
    found = (f"{name}: {', '.join(what)}" for name, what in differing.items())
    claim = "Every analysis made alike (settings, text, windows, tokenizer, dtype, versions, code)"
    if not any(run.results for run in runs):
        return Check(None, claim, "nothing was measured")
    return Check(not differing, claim, "; ".join(found))


def _tokens(runs: Sequence[Measured]) -> Check:
    """Runs of one seed are compared; another order of the documents packs slightly other numbers of tokens."""
    claim = "The same number of training tokens"
    by_seed = {(run.config or {}).get("seed"): run for run in runs}
    every = [[run for run in runs if (run.config or {}).get("seed") == seed] for seed in by_seed]
    found = [_same(claim, some, lambda run: run.last("tokens")) for some in every]
    details = "; ".join(dict.fromkeys(check.detail for check in found))
    worst = next((check for check in found if not check.holds), found[0])
    return Check(worst.holds, claim, details)


def _seeds(runs: Sequence[Measured]) -> list[Check]:
    found = {group.name: sorted(map(str, group.runs)) for group in groups(runs)}
    listed = "; ".join(f"{name} {', '.join(seeds)}" for name, seeds in found.items())
    same = len({tuple(seeds) for seeds in found.values()}) == 1
    lone = [name for name, seeds in found.items() if len(seeds) == 1]
    of = "" if len(lone) == len(found) else f" of {', '.join(lone)}"
    untested = f"A single seed{of}: differences from it are not tested against other seeds."
    if any("None" in seeds for seeds in found.values()):
        alike = Check(None, "The same seeds", "not recorded for all runs")
    else:
        alike = Check(same, "The same seeds", ", ".join(next(iter(found.values()))) if same else listed)
    return [alike, Check(not lone, "Several seeds", untested if lone else listed)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
