"""Attention sinks, mass, entropy, sparsity and dead heads, from streamed row statistics.

With W the attention weights of one head over a window of T tokens, the importance of key k is the mean weight it
gets from the rows that can see it, `alpha_k = sum_i W_ik / #{i : i sees k}` (k = 1 is the first token). The sink rate
is the share of (sequence, layer, head) with `alpha_k > epsilon`. Both versions are reported: *raw* weights, and
*renormalised* rows `|W_ij| / (sum_j |W_ij| + 1e-8)`, without which a mechanism whose rows do not sum to one (softpick,
SWAT) has few sinks or many by its scale alone.

`sink_rate_any` asks for a sink at any key that enough rows see: more than half (`audience`) of the most rows that see
one key. Without a window these are the keys k <= T/2, rounded up, and with a window of w all but the last w/2. Beyond
them few weights decide, for the last key one: `audience` 0, which takes every key, also finds self-attention.

Two definitions are published, and both are reported under their names in `published`:

    gu        Gu et al., arXiv 2410.10781: sum over i >= k of the renormalised weights, divided by T - k + 1
    softpick  Zuhri et al., arXiv 2504.20966: sum over all T rows of the raw weights on key 1, divided by T

Under full causal attention the first is `sink_rate.renormalised` and the second `sink_rate.raw`; under a sliding window
both divide by rows that cannot see the key.

A key that gets much weight may contribute little, since sinks tend to have small values. `contribution` has the sink
rate of |W_ij| ||v_j|| in place of |W_ij|, rows divided by their sum: the norms of Kobayashi et al., arXiv 2004.10102,
but of values as a head mixes them, before the output projection.

All numbers come from `attention.row_stats`, with float64 sums over the rows of a sequence: no T x T matrix is formed,
and the size of a batch changes nothing but how the network's own products round.

Results: `Result` below, in which shares are in [0, 1]. `max_score` is the largest |score| met, and a head's entry is
`null` where it has no row to average. Of a model in which only some layers have attention weights, lists of layers have
an entry for each of `coverage.layers`, which are numbered as in the model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from attention.statistics import MASS_FLOOR, SMALL_WEIGHT
from eval.analysis import Analysis, Measurement
from eval.display import (
    Column,
    Compared,
    Curve,
    Figure,
    Grid,
    Shown,
    by_layer,
    layer_ticks,
    of_windows,
    percent,
    shares,
    three,
)
from eval.options import option
from eval.row_sums import (
    AllLayers,
    PerHead,
    RowSums,
    positions_up_to,
)
from eval.sink_rates import DEAD_TOKENS, AtLength, at_length
from eval.subjects.base import Subject
from eval.subjects.coverage import Coverage
from eval.terminal import progress
from eval.windows import Windows, cut, obstacle
from models import ModelError

EPSILON = "0.3"
"""Threshold of the sink rate that the report shows; the result files hold others."""

DEAD = "0.01"
"""Threshold below which the output of a head counts as dead in the report."""

APART = 0.05
"""Difference between the raw and the renormalised sink rate from which on the report mentions it."""

DEFINITIONS = {
    "sink_rate": "share of (sequence, layer, head) with alpha_1 > epsilon; alpha_k is the mean over the rows that see "
    "key k of W_ik (raw) or |W_ik| / (sum_j |W_ij| + 1e-8) (renormalised)",
    "sink_rate_by_key": "the same with alpha_k for the first keys, k = 1 first",
    "sink_rate_any": "share of (sequence, layer, head) in which some key has alpha_k > epsilon; a key counts if more "
    "rows see it than the setting audience times the most rows that see any (0.5 without a window: k <= T/2; 0: every "
    "key)",
    "gu": "Gu et al., arXiv 2410.10781 (there: T = 64, 100 sequences, epsilon 0.3): as sink_rate renormalised, which "
    "leaves rows that sum to one as they are, but divided by the T - k + 1 rows from k on even where a window hides "
    "the key from some",
    "softpick": "Zuhri et al., arXiv 2504.20966 (there: T = 512, epsilon 0.2 and 0.3): as sink_rate raw, but the mean "
    "over all T rows, those included that a window keeps from seeing key 1",
    "contribution": "as sink_rate renormalised, of |W_ij| ||v_j|| / sum_k |W_ik| ||v_k||: how much of what a row mixes "
    "comes from a key, not how much weight it has (as Kobayashi et al., arXiv 2004.10102, but with values before the "
    "output projection)",
    "mass": "sum_j W_ij of a row: mean, and by position mean, 5th and 95th percentile over sequences, layers and heads",
    "entropy": "-sum_j p_ij ln p_ij with p = |W| / sum |W|, mean over rows with sum |W| >= 1e-8 (skipped_rows is the "
    "share of the others); normalised: divided by ln n_i, over rows that see n_i > 1 keys; support: mean of e^entropy",
    "sparsity": "shares of visible (query, key) pairs with W exactly 0 in float32 (zeros) and with |W| <= 1e-5 "
    "(small), share of rows with no weight other than 0 (empty_rows)",
    "dead_heads": "share of (layer, head) whose output has max |o| < epsilon at 95 % of tokens or more",
}


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    lengths: tuple[int, ...] = option((64, 512), "lengths of the windows", unit="tokens")
    train_length: bool = option(True, "measure at the training length, too")
    longest: int = option(4096, "skip lengths beyond this", unit="tokens")
    sequences: int = option(100, "windows per length")
    thresholds: tuple[float, ...] = option((0.2, 0.3), "epsilon of the sink rate, a mean weight")
    keys: int = option(10, "first keys to report the sink rate of")
    audience: float = option(
        0.5, "sink_rate_any: keys that more rows see than this share of the most; 0 for every key"
    )
    dead: tuple[float, ...] = option((1e-6, 1e-2), "a head is dead whose output stays below this")
    bos: bool = option(True, "begin windows with the beginning-of-document token")

    def __post_init__(self) -> None:
        if min(self.lengths, default=2) < 2 or self.sequences < 1 or self.keys < 1:
            raise ModelError("sinks needs lengths of at least 2, and at least one sequence and one key")
        if not 0 <= self.audience < 1:
            raise ModelError(f"audience is a share of rows, at least 0 and below 1, got {self.audience}")


@dataclass(frozen=True)
class Skipped:
    """A length that could not be measured."""

    length: int
    reason: str


@dataclass(frozen=True)
class Result:
    """The results, as the module's docstring lays them out; older ones do not say which layers they cover: all."""

    definitions: Mapping[str, str]
    lengths: Mapping[str, AtLength]
    skipped: list[Skipped]
    coverage: Coverage | None = None


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    lengths = {*settings.lengths, *([subject.train_length] if settings.train_length else [])}
    measured: dict[str, AtLength] = {}
    skipped = []
    for length in sorted(lengths):
        reason = obstacle(subject, length)
        if length > settings.longest:
            reason = f"longer than --longest {settings.longest}"
        if reason is None:
            try:
                windows = cut(subject, length, settings.sequences, bos=settings.bos, overlap=True)
            except ModelError as error:
                reason = str(error)
        if reason is not None:
            skipped.append(Skipped(length, reason))
            continue
        measured[str(length)] = _measure(subject, settings, windows)
    if not measured:
        raise ModelError(f"sinks cannot be measured for {subject.name}: {skipped[0].reason}")
    protocol = {
        "windows": {length: found.protocol for length, found in measured.items()},
        "least_mass": MASS_FLOOR,
        "small_weight": SMALL_WEIGHT,
        "weights": "computed in float32 from the queries and keys that the model computed in its dtype",
        "dead_tokens": DEAD_TOKENS,
    }
    return Measurement(Result(DEFINITIONS, measured, skipped, subject.coverage), protocol)


def row(result: Result) -> dict[str, object]:
    """The longest measured length in one line."""
    length, measured = max(result.lengths.items(), key=lambda entry: int(entry[0]))
    threshold = list(measured.sink_rate.raw)[-1]
    layers = {} if result.coverage is None else {"layers": result.coverage.cell}
    return layers | {
        "T": int(length),
        f"sink>{threshold}": measured.sink_rate.raw[threshold],
        "renormalised": measured.sink_rate.renormalised[threshold],
        **({} if measured.contribution is None else {"by value": measured.contribution.sink_rate[threshold]}),
        "mass": measured.mass.mean,
        "entropy": measured.entropy.nats,
        "zeros": measured.sparsity.zeros,
        "empty rows": measured.sparsity.empty_rows,
        "dead heads": next(iter(measured.dead_heads.values()), None),
    }


def notes(result: Result) -> list[str]:
    """The layers that are not measured, and what follows the weights."""
    return [] if result.coverage is None else result.coverage.notes


def shared_length(runs: Sequence[Shown[Result]]) -> str | None:
    """The window length at which row statistics are compared.

    The training length if all runs share one and were measured at it, otherwise the longest that all were measured at.
    """
    shared = set.intersection(*(set(run.results.lengths) for run in runs)) if runs else set()
    trained = {str(run.train_length) for run in runs}
    return trained.pop() if len(trained) == 1 and trained <= shared else max(shared, key=int, default=None)


def columns(runs: Sequence[Shown[Result]]) -> list[Column[Result]]:
    """Row statistics at the length that all runs were measured at."""
    length = shared_length(runs)

    def at(number: Callable[[AtLength], float | None]) -> Callable[[Result], float | None]:
        def of(result: Result) -> float | None:
            found = result.lengths.get(str(length))
            return None if found is None else number(found)

        return of

    # Older results do not have it.
    given = at(
        lambda found: None if found.contribution is None else found.contribution.sink_rate.get(EPSILON)
    )
    group = f"What attention does{of_windows([] if length is None else [int(length)])}"
    column = partial(Column[Result], group=group, length=length)
    return [
        column(
            key="sink_raw", title="sink rate, raw", unit=f"ε = {EPSILON}", show=percent,
            value=at(lambda found: found.sink_rate.raw.get(EPSILON)),
            meaning=f"Share of heads and texts in which the first token gets a mean weight above {EPSILON}.",
        ),
        column(
            key="sink_renormalised", title="sink rate, renormalised", unit=f"ε = {EPSILON}", better="lower",
            show=percent, value=at(lambda found: found.sink_rate.renormalised.get(EPSILON)), headline=True,
            meaning="The sink rate of rows divided by their magnitude: rows that sum to little hide no sink.",
        ),
        *([column(
            key="sink_value", title="sink rate, by contribution", unit=f"ε = {EPSILON}", show=percent, value=given,
        )] if any(given(run.results) is not None for run in runs) else []),
        column(
            key="zeros", title="exact zeros", unit="of weights", show=percent,
            value=at(lambda found: found.sparsity.zeros),
            meaning="Share of the visible weights that are exactly zero.",
        ),
        column(
            key="entropy", title="entropy", unit="nats", show=three, value=at(lambda found: found.entropy.nats),
            meaning="Of a row of weights, renormalised: 0 where all goes to one token.",
        ),
        column(
            key="mass", title="mass", unit="Σ of a row", show=three, value=at(lambda found: found.mass.mean),
            meaning="The sum of a row of weights: 1 for softmax, less where a head can abstain.",
        ),
        column(
            key="dead", title="dead heads", unit=f"|out| < {DEAD}", better="lower", show=percent,
            value=at(lambda found: found.dead_heads.get(DEAD)),
            meaning="Share of heads whose output is close to nothing.",
        ),
    ]  # fmt: skip


def figures(runs: Sequence[Shown[Result]]) -> list[Figure | Grid]:
    """Sink rates by layer and head, and mass by position."""
    length = shared_length(runs)
    found = [(run, run.results.lengths[length]) for run in runs] if length is not None else []

    def rates(result: Result, kind: str) -> PerHead:
        if length is None:
            return []
        return getattr(result.lengths[length].heads.sink_rate, kind).get(EPSILON, [])

    raw = by_layer(runs, lambda result: _means(_in_place(result, rates(result, "raw"))))
    scaled = by_layer(
        runs, lambda result: _means(_in_place(result, rates(result, "renormalised"))), dashed=True
    )
    mass = [
        Curve(run.name, run.place, at.mass.positions, at.mass.mean_at, band=(at.mass.p5_at, at.mass.p95_at))
        for run, at in found
    ]
    share = f"Share of (sequence, head) whose first token gets more than {EPSILON} of the weight on average"
    drawn: list[Figure | Grid] = [
        Figure(
            "Sink rate by layer",
            f"{share}; windows of {length} tokens. Solid: raw weights. Dashed: rows renormalised to sum to one."
            + "".join(f" {run.name}: {note}." for run in runs for note in notes(run.results)),
            raw + scaled, "layer", "sink rate", from_zero=True, ticks=layer_ticks(raw),
        ),
        Figure(
            "Mass by position",
            "Sum of a row's weights: mean over heads and sequences, and the 5th to 95th percentile. "
            "Where rows may sum to less than one, a head can attend to nothing without a sink.",
            mass, "position", "sum of weights", log_x=2, from_zero=True,
        ),
    ]  # fmt: skip
    grids = [(run.name, _in_place(run.results, rates(run.results, "renormalised"))) for run in runs]
    if grids := [(name, grid) for name, grid in grids if grid]:
        caption = f"{share}, by layer and head; rows renormalised, windows of {length} tokens, one scale for all runs."
        what = f"sink rate (renormalised, ε = {EPSILON})"
        drawn.append(Grid("Sink rate of each head", caption, what, grids))
    return drawn


def sentences(compared: Mapping[str, Compared]) -> Iterator[str]:
    """Sentences on heads with a sink, on rates that renormalising changes, and on dead heads."""
    raw, scaled = dict(compared["sink_raw"].means), dict(compared["sink_renormalised"].means)
    if raw:
        first = max(raw, key=lambda name: raw[name])
        others = {name: value for name, value in raw.items() if name != first}
        yield (
            f"The first token gets a mean weight above {EPSILON} (it is a sink) in {raw[first]:.1%} of heads of {first}"
            + (f"; {shares(others)}" if others else "")
            + f" (raw weights, windows of {compared['sink_raw'].length} tokens)."
        )
    apart = {name: scaled[name] for name in raw if name in scaled and abs(scaled[name] - raw[name]) >= APART}
    if apart:
        yield (
            f"With rows renormalised to sum to one the sink rate is another: {shares(apart)}. "
            "The raw rate says little about a mechanism whose rows do not sum to one."
        )
    if dead := {name: value for name, value in compared["dead"].means if value > 0}:
        yield f"Some heads give almost nothing (dead, |output| < {DEAD}): {shares(dead)}."


def _measure(subject: Subject, settings: Settings, windows: Windows) -> AtLength:
    length = windows.tokens.shape[1]
    positions = positions_up_to(length)
    layers: dict[int, RowSums] = defaultdict(
        lambda: RowSums(positions, keys=settings.keys, audience=settings.audience, dead=settings.dead)
    )
    batches = windows.tokens.split(subject.batch(length))
    with subject.trace(attention=lambda call: layers[call.layer].add(call)):
        for batch in progress(batches, f"sinks {subject.name} T={length}"):
            subject.observe(batch)
    if not layers:
        raise ModelError(f"{subject.name} reports no attention to measure")
    measured = AllLayers([layers[index] for index in sorted(layers)])
    return at_length(measured, positions, windows, thresholds=settings.thresholds, dead=settings.dead)


def _in_place(result: Result, layers: PerHead) -> PerHead:
    """Numbers by layer and head, with an empty row for each layer of the model that was not measured."""
    if result.coverage is None or not layers:
        return layers
    rows: PerHead = [[None] * len(layers[0]) for _ in range(result.coverage.of)]
    for number, layer in zip(result.coverage.layers, layers, strict=True):
        rows[number] = layer
    return rows


def _means(layers: PerHead) -> list[float | None]:
    """Mean over the heads of each layer, leaving out heads without a number."""
    known = [[value for value in layer if value is not None] for layer in layers]
    return [sum(values) / len(values) if values else None for values in known]


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    heading="Attention",
    order=10,
    columns=columns,
    figures=figures,
    sentences=sentences,
)
