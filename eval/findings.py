"""What the numbers of a comparison say, in sentences, and how far a reader may trust them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.comparison import DEAD, EPSILON, SHOWN, Column, Measured, columns, disagreements, known, sink_length
from eval.pairs import baseline, compare, groups

CHOSEN = ("name", "out", "seed", "model.attention", "model.attention_options")
"""Config keys in which compared runs are meant to differ."""

APART = 0.05
"""Difference between the raw and the renormalised sink rate from which on it is mentioned."""


@dataclass(frozen=True)
class Check:
    """One condition of a fair comparison: whether it holds (None: unknown), and what was found."""

    holds: bool | None
    claim: str
    detail: str = ""


def findings(runs: Sequence[Measured]) -> list[str]:
    """What the numbers say, a sentence each, the most important first."""
    by_key = {column.key: column for column in columns(runs)}
    sentences = [
        *_quality(by_key["bits_per_byte"], runs),
        *_paired(by_key["bits_per_byte"], runs),
        *_sinks(by_key, runs),
        *_range(by_key["kurtosis"], "The kurtosis of the residual stream (3 for a Gaussian)", runs),
        *_dead(by_key["dead"], runs),
        *_range(by_key["ratio_3"], "With weights rounded to 3 bits, the factor on perplexity", runs),
        *_range(by_key["bits_4x"], "At 4 times the training length, the loss in bits per byte", runs),
    ]
    outdated = [run.name for run in runs if run.outdated]
    if outdated:
        sentences.append(f"Numbers with a † would now be measured otherwise: {', '.join(outdated)}.")
    absent = sorted({name for run in runs for name in run.missing if name in SHOWN | {"training"}})
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
        _same("The same number of parameters", runs, lambda run: run.parameters),
        _configs(runs),
        _protocols(runs),
        *_seeds(runs),
    ]


def _quality(column: Column, runs: Sequence[Measured]) -> Iterator[str]:
    numbers = known(column, runs)
    base = baseline(runs)
    if not numbers:
        return
    if len(numbers) == 1:
        yield f"{numbers[0][0].name} reaches {numbers[0][1]:.4f} bits per byte on held-out text."
        return
    (best, low), (worst, high) = numbers[0], numbers[-1]
    against = {run.name: value for run, value in numbers}.get(base.name)
    sentence = (
        f"Of {len(numbers)} runs {best.name} has the lowest loss on held-out text, {low:.4f} bits per byte"
    )
    if disagreements(column, runs):
        yield f"{sentence}; but the runs do not share data and length, so these numbers do not compare."
    elif best is base or against is None:
        yield f"{sentence}, and {worst.name} the highest, {high:.4f} ({high / low - 1:+.1%})."
    else:
        yield f"{sentence}, against {against:.4f} of {base.name} ({low / against - 1:+.1%})."


def _paired(column: Column, runs: Sequence[Measured]) -> Iterator[str]:
    for paired in compare(column, runs):
        low, high = paired.interval.low, paired.interval.high
        if paired.over == "seeds" and low is not None and high is not None:
            yield (
                f"Over {len(paired.seeds)} seeds {paired.group} differs from {paired.baseline} by "
                f"{column.signed(paired.interval.mean)} bits per byte, with a 95 % interval of {column.signed(low)} to "
                f"{column.signed(high)}, which {'leaves out' if paired.interval.sign else 'includes'} zero."
            )


def _sinks(by_key: Mapping[str, Column], runs: Sequence[Measured]) -> Iterator[str]:
    raw = {run.name: value for run, value in known(by_key["sink_raw"], runs)}
    scaled = {run.name: value for run, value in known(by_key["sink_renormalised"], runs)}
    if not raw:
        return
    first = max(raw, key=lambda name: raw[name])
    others = {name: value for name, value in raw.items() if name != first}
    yield (
        f"The first token gets a mean weight above {EPSILON} (it is a sink) in {raw[first]:.1%} of heads of {first}"
        + (f"; {_list(others)}" if others else "")
        + f" (raw weights, windows of {sink_length(runs)} tokens)."
    )
    apart = {name: scaled[name] for name in raw if name in scaled and abs(scaled[name] - raw[name]) >= APART}
    if apart:
        yield (
            f"With rows renormalised to sum to one the sink rate is another: {_list(apart)}. "
            "The raw rate says little about a mechanism whose rows do not sum to one."
        )


def _range(column: Column, what: str, runs: Sequence[Measured]) -> Iterator[str]:
    numbers = known(column, runs)
    if len(numbers) > 1 and not disagreements(column, runs):
        (best, low), (worst, high) = numbers[0], numbers[-1]
        yield f"{what} ranges from {column.show(low)} ({best.name}) to {column.show(high)} ({worst.name})."


def _dead(column: Column, runs: Sequence[Measured]) -> Iterator[str]:
    dead = {run.name: value for run, value in known(column, runs) if value > 0}
    if dead:
        yield f"Some heads give almost nothing (dead, |output| < {DEAD}): {_list(dead)}."


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


def _list(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in shares.items())
