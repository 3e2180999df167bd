"""The report of a study: report.md to read, report.json and numbers.csv to compute with."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from eval.codec import encode
from eval.intervals import Interval
from study.claims import Verdict
from study.definition import Study
from study.evidence import Evidence, Number, gather
from study.seal import Seal

WORDS = (
    "Means over seeds, in brackets the 95 % interval by Student's t. A difference is taken seed by seed, between runs "
    "that share initial weights, data and order; **bold** where its interval leaves out zero. These intervals are not "
    "corrected for their number: of twenty around no difference, one leaves out zero. Verdicts are: the chance of a "
    "false one among all claims is at most 5 % (Holm's correction)."
)


def write(study: Study, sealed: Seal) -> list[str]:
    """Write the report; returns the lines for the terminal.

    Raises:
        InputError: nothing has been measured yet.
    """
    found = gather(study)
    pages = {
        "report.md": "\n".join(page(found, sealed)) + "\n",
        "report.json": json.dumps(encode(summary(found, sealed)), indent=1, allow_nan=False) + "\n",
    }
    for name, text in pages.items():
        (study.folder / name).write_text(text, encoding="utf-8")
    _write_csv(study.folder / "numbers.csv", found)
    lines = [f"{verdict.outcome}: {sentence(verdict)}" for verdict in found.verdicts]
    return [*lines, f"wrote {study.folder / 'report.md'}, report.json and numbers.csv"]


def page(found: Evidence, sealed: Seal) -> Iterator[str]:
    """The lines of report.md."""
    study = found.study
    yield from (f"# {study.name}", "", *([study.file.about.strip(), ""] if study.file.about else []))
    if found.verdicts:
        yield from ("## Verdicts", "", f"The claims stand since {sealed.since}, before the first result.", "")
        yield from (
            f"- **{verdict.outcome.capitalize()}**: {sentence(verdict)}" for verdict in found.verdicts
        )
        yield ""
    yield from ("## Numbers", "", WORDS, "")
    for number in found.numbers:
        yield from _table(number, study)
    yield from ("## Noise", "", *_noise(found), "")
    if found.choices:
        yield from ("## Chosen values", "", *_choices(found), "")
    yield from ("## Conditions", "", *_conditions(found, sealed))


def sentence(verdict: Verdict) -> str:
    """A verdict as one plain sentence."""
    claim = verdict.claim
    said = f"{claim.says.strip().rstrip('.')} ({claim.name})"
    if verdict.why:
        return f"{said}: {verdict.why}."
    assert verdict.interval is not None
    assert verdict.probability is not None
    what = " − ".join(claim.contrast)
    text = f"{said}. {claim.metric} of {what} is {_interval(verdict.interval)} over {_seeds(verdict.seeds)}"
    text += f"; {_bound(verdict)}; corrected p = {verdict.probability:.2g}"
    if verdict.outcome == "undecided":
        more = (
            f"about {verdict.needed} seeds would decide it" if verdict.needed else "more seeds may decide it"
        )
        text += f"; {more}"
    return f"{text}."


def summary(found: Evidence, sealed: Seal) -> dict[str, object]:
    """The evidence as plain values."""
    return {
        "study": found.study.name,
        "claims_since": sealed.since,
        "claims_fingerprint": sealed.fingerprint,
        "planned_seeds": sealed.seeds,
        "seeds": found.study.file.seeds,
        "baseline": found.study.file.baseline,
        "numbers": {
            number.key: {
                "heading": number.heading,
                "better": number.better,
                "values": number.values,
                "means": number.means,
                "differences": number.differences,
                "noise": number.noise,
                "measured_differently": number.odd,
            }
            for number in found.numbers
        },
        "verdicts": found.verdicts,
        "chosen": found.choices,
        "missing": found.missing,
    }


def _table(number: Number, study: Study) -> Iterator[str]:
    arrow = {"lower": " ↓", "higher": " ↑", None: ""}[number.better]
    yield from (f"### {number.heading}{arrow}", "")
    if number.odd:
        yield from (f"The runs were measured differently ({', '.join(number.odd)}): nothing compares.", "")
    yield f"| variant | seeds | mean | difference from {study.file.baseline} |"
    yield "| --- | --- | --- | --- |"
    for variant in study.variants:
        mean, difference = number.means.get(variant), number.differences.get(variant)
        shown = "–" if difference is None or number.odd else _interval(difference, number.signed)
        bold = "**" if difference is not None and difference.sign and not number.odd else ""
        written = "–" if mean is None else _interval(mean, number.show)
        yield f"| {variant} | {len(number.values[variant])} | {written} | {bold}{shown}{bold} |"
    yield ""


def _noise(found: Evidence) -> Iterator[str]:
    baseline = found.study.file.baseline
    yield f"Standard deviation of {baseline} over its seeds, and the smallest difference between two variants of that"
    yield "noise that so many seeds show with a chance of 80 %. Pairing by seed can only make it smaller where runs of"
    yield "one seed resemble each other."
    yield from ("", "| number | seeds | deviation | shows |", "| --- | --- | --- | --- |")
    for number in found.numbers:
        shown = [
            "–" if value is None else number.show(value)
            for value in (number.noise.deviation, number.noise.shows)
        ]
        yield f"| {number.heading} | {number.noise.seeds} | {' | '.join(shown)} |"


def _choices(found: Evidence) -> Iterator[str]:
    tuning = found.study.file.tuning
    assert tuning is not None
    yield f"`{tuning.key}`, by bits per byte of held-out text on seeds {', '.join(map(str, tuning.seeds))}:"
    yield from ("", f"| variant | chosen | {' | '.join(f'{value:g}' for value in tuning.values)} |")
    yield f"| --- | --- |{' --- |' * len(tuning.values)}"
    for variant, choice in found.choices.items():
        losses = " | ".join(f"{choice.losses.get(value, float('nan')):.4f}" for value in tuning.values)
        chosen = (
            "–"
            if choice.value is None
            else f"{choice.value:g}{' (at the edge)' if choice.at_the_edge else ''}"
        )
        yield f"| {variant} | {chosen} | {losses} |"


def _conditions(found: Evidence, sealed: Seal) -> Iterator[str]:
    file = found.study.file
    added = sorted({*file.seeds} - {*sealed.seeds})
    yield f"- Seeds: {', '.join(map(str, file.seeds))}."
    if added:
        yield f"- Added after the first result: seeds {', '.join(map(str, added))}."
    if len(file.seeds) == 1:
        yield "- One seed: nothing here says what another would give."
    if found.missing:
        yield f"- Missing: {', '.join(f'{name} ({state})' for name, state in found.missing.items())}."
    yield f"- The file of the study is `{found.study.path}`; `python -m study run {found.study.path}` makes all of it."


def _write_csv(path: Path, found: Evidence) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "variant", "seed", "value"])
        for number in found.numbers:
            for variant, values in number.values.items():
                writer.writerows([number.key, variant, seed, value] for seed, value in values.items())


def _interval(interval: Interval, show: Callable[[float], str] = "{:.4g}".format) -> str:
    if interval.low is None or interval.high is None:
        return show(interval.mean)
    return f"{show(interval.mean)} [{show(interval.low)} to {show(interval.high)}]"


def _bound(verdict: Verdict) -> str:
    claim = verdict.claim
    size = f"{claim.smallest:g}"
    if len(claim.contrast) == 1:
        return f"claimed {'above' if claim.direction == 'higher' else 'below'} {size}"
    return {
        "higher": f"claimed above {size}",
        "lower": f"claimed below {-claim.smallest:g}",
        "same": f"claimed within ±{size}",
    }[claim.direction]


def _seeds(seeds: list[int]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
