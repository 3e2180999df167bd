"""The report of a study: report.html, report.md and forest.svg to read, report.json and numbers.csv to compute with."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import files
from eval.codec import encode
from eval.drawing import style
from eval.report import forest
from eval.report.export import write_numbers
from eval.report.numbers import Number, interval
from storage.machine import words
from study import equal_time, speed
from study.claims import Verdict
from study.definition import Study
from study.evidence import Evidence, gather
from study.seal import Seal

WORDS = (
    "Means over seeds, in brackets the 95 % interval by Student's t. A difference is taken seed by seed, between runs "
    "that share initial weights, data and order; **bold** where its interval leaves out zero. These intervals are not "
    "corrected for their number: of twenty around no difference, one leaves out zero. Verdicts are: the chance of a "
    "false one among all claims is at most 5 % (Holm's correction)."
)

FOREST = "forest.svg"

SHOWN = (
    "Differences from {baseline} with 95 % intervals over seeds: green is better, orange worse, both beyond the noise; "
    "grey is within it"
)

NOISE_WORDS = (
    "Standard deviation of {baseline} over its seeds, and the smallest difference between two variants of that noise "
    "that so many seeds show with a chance of 80 %. Pairing by seed makes it smaller where runs of one seed resemble "
    "each other."
)


def write(study: Study, sealed: Seal) -> list[str]:
    """Write the report; returns the lines for the terminal.

    Raises:
        InputError: nothing has been measured yet.
    """
    from study import page as html

    found = gather(study)
    pages = {
        "report.html": html.render(found, sealed),
        "report.md": "\n".join(page(found, sealed)) + "\n",
        "report.json": json.dumps(encode(summary(found, sealed)), indent=1, allow_nan=False) + "\n",
    }
    for name, text in pages.items():
        files.write(study.folder / name, text)
    write_numbers(study.folder / "numbers.csv", found.numbers)
    if compared := forest.compared(found.numbers):
        style.save(forest.figure(compared, list(study.variants)), study.folder / Path(FOREST).stem)
    lines = [f"{verdict.outcome}: {said}" for verdict, said in sentences(found)]
    return [*lines, f"wrote {study.folder / 'report.html'}, report.md, report.json and numbers.csv"]


def publish(study: Study, folder: Path) -> list[Path]:
    """Copy what a report has to read, and its numbers, to a folder; returns the paths NAME.md, .csv and .svg.

    A study of one variant has no differences, and no picture of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, *others = (folder / f"{study.name}{suffix}" for suffix in (".md", ".csv", ".svg"))
    text = (study.folder / "report.md").read_text(encoding="utf-8")
    files.write(page, text.replace(f"({FOREST})", f"({study.name}.svg)"))
    copied = [page]
    for name, copy in zip(("numbers.csv", FOREST), others, strict=True):
        if (study.folder / name).is_file():
            files.write(copy, (study.folder / name).read_bytes())
            copied.append(copy)
    return copied


def page(found: Evidence, sealed: Seal) -> Iterator[str]:
    """The lines of report.md."""
    study = found.study
    yield from (f"# {study.name}", "", *([study.file.about.strip(), ""] if study.file.about else []))
    if found.verdicts:
        yield from ("## Verdicts", "", f"The claims stand since {sealed.since}, before the first result.", "")
        yield from (f"- **{verdict.outcome.capitalize()}**: {said}" for verdict, said in sentences(found))
        yield ""
    if forest.compared(found.numbers):
        yield from ("## Differences", "", f"![{SHOWN.format(baseline=study.file.baseline)}]({FOREST})", "")
    yield from ("## Numbers", "", WORDS, "")
    for number in found.numbers:
        yield from _table(number, study)
    yield from ("## Noise", "", *_noise(found), "")
    if found.choices:
        yield from ("## Chosen values", "", *_choices(found), "")
    yield from ("## Conditions", "", *(f"- {line}" for line in conditions(found, sealed)))


def sentences(found: Evidence) -> list[tuple[Verdict, str]]:
    """Each verdict with its sentences."""
    return [(verdict, _sentence(verdict, found.number(verdict.claim.metric))) for verdict in found.verdicts]


def said(verdict: Verdict, number: Number | None) -> str:
    """A verdict in one plain sentence, behind the claim."""
    if verdict.why:
        return f"Open: {verdict.why}."
    assert number is not None
    assert verdict.interval is not None
    show = number.signed if len(verdict.claim.contrast) == 2 else number.show
    seeds = f"{len(verdict.seeds)} seed{'s' if len(verdict.seeds) > 1 else ''}"
    text = f"{number.heading}, {' − '.join(verdict.claim.contrast)}: {interval(verdict.interval, show)} over {seeds}"
    if verdict.outcome == "undecided":
        text += (
            f"; about {verdict.needed} seeds would decide" if verdict.needed else "; more seeds may decide"
        )
    return f"{text}."


def grounds(verdict: Verdict, number: Number | None) -> str:
    """The bound that a claim set, and the p-value that decides."""
    claim = verdict.claim
    if number is None:
        return f"Claimed {claim.direction}, {claim.smallest:g}."
    pair = len(claim.contrast) == 2
    show = number.signed if pair else number.show
    bound = {
        "higher": f"above {show(claim.smallest)}",
        "lower": f"below {show(-claim.smallest if pair else claim.smallest)}",
        "same": f"within ±{number.show(claim.smallest)}",
    }[claim.direction]
    if verdict.probability is None:
        return f"Claimed {bound}."
    return f"Claimed {bound}; corrected p = {verdict.probability:.2g}."


def _sentence(verdict: Verdict, number: Number | None) -> str:
    claim = f"{verdict.claim.says.strip().rstrip('.')} ({verdict.claim.name})."
    return f"{claim} {said(verdict, number)} {grounds(verdict, number)}"


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


@dataclass(frozen=True)
class Row:
    """A variant's number as text.

    Attributes:
        variant: its name.
        seeds: how many it has.
        mean: over them, with its interval.
        difference: from the baseline, with its interval.
        verdict: "better" or "worse" beyond the noise of seeds, "" where that is open.
    """

    variant: str
    seeds: int
    mean: str
    difference: str
    verdict: str


def rows(number: Number, study: Study) -> list[Row]:
    """A row for each variant, the baseline's first."""
    order = sorted(study.variants, key=lambda name: name != study.file.baseline)
    found = []
    for variant in order:
        found.append(
            Row(
                variant,
                len(number.values[variant]),
                number.mean(variant),
                number.difference(variant),
                number.verdict(variant) or "",
            )
        )
    return found


def noise_rows(found: Evidence) -> list[tuple[str, int, str, str]]:
    """By number: its heading, seeds of the baseline, their standard deviation, and the difference that they show."""

    def written(value: float | None, number: Number) -> str:
        return "–" if value is None else number.show(value)

    return [
        (
            number.heading,
            number.noise.seeds,
            written(number.noise.deviation, number),
            written(number.noise.shows, number),
        )
        for number in found.numbers
        if number.noise.seeds
    ]


def conditions(found: Evidence, sealed: Seal) -> Iterator[str]:
    """Sentences on what a reader must know of how the numbers came about."""
    file = found.study.file
    yield f"Seeds: {', '.join(map(str, file.seeds))}."
    if trained := dict.fromkeys(_machines(found)):
        yield f"Trained on {'; '.join(trained)}."
    if added := sorted({*file.seeds} - {*sealed.seeds}):
        yield f"Added after the first result: seeds {', '.join(map(str, added))}."
    speeds = speed.read(found.study)
    if speeds is not None:
        yield speed.condition(speeds)
    elif any(number.key == equal_time.KEY for number in found.numbers):
        yield f"Nothing at equal time: {equal_time.untimed(found.study)}."
    if len(file.seeds) == 1:
        yield "One seed: nothing here says what another would give."
    if found.missing:
        yield f"Missing: {', '.join(f'{name} ({state})' for name, state in found.missing.items())}."
    yield f"The file of the study is {found.study.path}; `python -m study run {found.study.path}` makes all of it."


def _machines(found: Evidence) -> Iterator[str]:
    """The machine and the torch of each run that recorded them."""
    for run in (run for seeds in found.runs.values() for run in seeds.values()):
        if run.record and "machine" in run.record:
            torch = run.record.get("versions", {}).get("torch", "of unknown version")
            known = {name: fact for name, fact in run.record["machine"].items() if name != "platform"}
            yield words({**known, "torch": torch})


def _table(number: Number, study: Study) -> Iterator[str]:
    arrow = {"lower": " ↓", "higher": " ↑", None: ""}[number.better]
    yield from (f"### {number.heading}{arrow}", "")
    if number.odd:
        yield from (f"The runs were measured differently ({', '.join(number.odd)}): nothing compares.", "")
    yield f"| variant | seeds | mean | difference from {study.file.baseline} |"
    yield "| --- | --- | --- | --- |"
    for row in rows(number, study):
        bold = "**" if row.verdict else ""
        yield f"| {row.variant} | {row.seeds} | {row.mean} | {bold}{row.difference}{bold} |"
    yield ""


def _noise(found: Evidence) -> Iterator[str]:
    yield from (NOISE_WORDS.format(baseline=found.study.file.baseline), "")
    yield from ("| number | seeds | deviation | shows |", "| --- | --- | --- | --- |")
    for row in noise_rows(found):
        cells = [str(cell).replace("|", "\\|") for cell in row]
        yield f"| {' | '.join(cells)} |"


def _choices(found: Evidence) -> Iterator[str]:
    tuning = found.study.file.tuning
    assert tuning is not None
    yield f"`{tuning.key}`, by bits per byte of held-out text on seeds {', '.join(map(str, tuning.seeds))}:"
    yield from ("", f"| variant | chosen | {' | '.join(f'{value:g}' for value in tuning.values)} |")
    yield f"| --- | --- |{' --- |' * len(tuning.values)}"
    for variant, choice in found.choices.items():
        losses = " | ".join(f"{choice.losses.get(value, math.nan):.4f}" for value in tuning.values)
        yield f"| {variant} | {choice.shown} | {losses} |"
