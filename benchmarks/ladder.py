"""A ladder of recipes: `paper`, `paper` and one ingredient at a time, `modern`, with paired seeds.

    python -m benchmarks.ladder --size nano --sweep              # learning rates first: 8 runs of a seed not used again
    python -m benchmarks.ladder --size nano --seeds 3 --write .  # 3 runs of each rung, a minute or two each
    python -m benchmarks.ladder --size nano --seeds 3 --limit 0  # the table of what has finished

A seed decides initial weights and the order of the text, so that rungs of one seed are compared with each other.
Runs lie in runs/ladder/SIZE; what has finished is read, what was stopped goes on, seed by seed. What an earlier call
wrote down, here or on another machine, is taken from benchmarks/results.

Time is measured apart from the runs, as whole training steps that all rungs take in turns.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import geometric_mean, mean

import torch

from benchmarks.machine import describe, facts, table
from benchmarks.measure import median
from benchmarks.rungs import (
    LONGER,
    PAPER,
    SIZES,
    SWEEP_SEED,
    Outcome,
    Rung,
    climb,
    ladder,
    read,
    recorded,
    sweep,
)
from common.command import Parser, guarded
from eval.intervals import Interval, student
from models import GPT
from training import load
from training.config import resolve_precision
from training.losses.objective import Objective
from training.timing import interleaved, training_step

Outcomes = dict[str, dict[int, Outcome]]
"""What the runs came to, by rung and seed."""


def run(
    rungs: list[Rung], size: str, seeds: list[int], limit: int | None, before: Mapping[str, Outcome]
) -> Outcomes:
    """Train what is missing, all rungs of a seed before the next seed, and read the rest.

    Args:
        rungs: of the ladder.
        size: of the models.
        seeds: of the runs.
        limit: how many runs to train at most; None: all.
        before: what other runs came to, by the identity of their configs.
    """
    found: Outcomes = {rung.name: {} for rung in rungs}
    for seed in seeds:
        for rung in rungs:
            known = read(rung, size, seed, before)
            if known is None and limit != 0:
                limit = None if limit is None else limit - 1
                known = climb(rung, size, seed)
            if known is not None:
                found[rung.name][seed] = known
    return {name: of_seed for name, of_seed in found.items() if of_seed}


def step_times(rungs: list[Rung], size: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of training steps of each rung that changes them, in turns, on random text."""
    vocabulary = load(SIZES[size]).data.tokenizer.vocab_size
    device = torch.device("cpu")
    steps = {}
    for rung in rungs:
        if rung.name == LONGER:
            continue
        config = rung.config(size, 1)
        precision = resolve_precision(config.train.precision, device)
        torch.set_float32_matmul_precision(config.train.float32_matmul)
        train = replace(config.train, precision=precision)
        torch.manual_seed(0)
        network = GPT(replace(config.model, vocab_size=vocabulary))
        steps[rung.name] = training_step(Objective(network, train), vocabulary, train, device, compiled=False)
    return interleaved(steps, rounds, device)


def against(found: Outcomes, name: str, times: Mapping[str, list[float]]) -> tuple[Interval, Interval | None]:
    """The loss of a rung minus that of `paper` after as many steps, and after as much time; over paired seeds.

    More steps help `paper`, too: s nats per factor e, by its runs of twice the steps. In r times the time of a step it
    would have come s ln r further, which is what a rung whose steps take that long is held against.
    """
    paper, rung = found[PAPER.name], found[name]
    seeds = sorted(paper.keys() & rung.keys())
    per_step = [rung[seed].loss - paper[seed].loss for seed in seeds]
    longer = found.get(LONGER, {})
    if not longer or name not in times:
        return student(per_step), None
    gain = mean(paper[seed].loss - longer[seed].loss for seed in paper.keys() & longer.keys()) / math.log(2)
    slower = median(times[name]) / median(times[PAPER.name])
    return student(per_step), student([difference + gain * math.log(slower) for difference in per_step])


def page(size: str, found: Outcomes, swept: Outcomes, times: Mapping[str, list[float]]) -> str:
    """All tables in Markdown, the machine first."""
    config = load(SIZES[size])
    train = config.train
    seeds = sorted({seed for of_seed in found.values() for seed in of_seed})
    parts = [
        f"# Recipes at {size}",
        f"{describe()}.",
        f"`{SIZES[size]}`: plain softmax attention, {train.steps} steps of {train.batch_size} x {train.length} tokens, "
        f"seeds {', '.join(map(str, seeds))}. Differences are nats per held-out token against `paper` with the same "
        "seed, with 95 % intervals by Student's t: below zero is better. After equal time: `paper` is granted the "
        "steps that it takes in the time of the rung's, by what twice its steps bring it. Steps were timed in turns, "
        "apart from the runs. Kurtosis is that of the residual stream after all blocks, 3 for a Gaussian: geometric "
        "mean of the seeds.",
    ]
    if found:
        parts.append(_ladder_table(found, times))
    if swept:
        parts += [
            "## Learning rates",
            f"One run each, seed {SWEEP_SEED}, which no rung has.",
            _sweep_table(size, swept),
        ]
    return "\n\n".join(parts) + "\n"


def _ladder_table(found: Outcomes, times: Mapping[str, list[float]]) -> str:
    rows = []
    for name, of_seed in found.items():
        first = next(iter(of_seed.values()))
        kurtosis = [x.kurtosis for x in of_seed.values() if x.kurtosis is not None]
        row = [
            name,
            str(len(of_seed)),
            f"{first.parameters / 1e6:.2f}",
            f"{mean(x.loss for x in of_seed.values()):.4f}",
        ]
        differences: tuple[Interval | None, Interval | None] = (None, None)
        if name != PAPER.name and PAPER.name in found:
            differences = against(found, name, times)
        slower = f"{median(times[name]) / median(times[PAPER.name]):.2f}" if name in times else "–"
        shown = ["–" if interval is None else _difference(interval) for interval in differences]
        rows.append(
            [*row, shown[0], slower, shown[1], f"{geometric_mean(kurtosis):.3g}" if kurtosis else "–"]
        )
    header = [
        "recipe",
        "seeds",
        "M parameters",
        "loss",
        "after equal steps",
        "time of a step",
        "after equal time",
    ]
    return table([*header, "kurtosis"], rows)


def _difference(interval: Interval) -> str:
    half = "" if interval.half is None else f" ± {interval.half:.4f}"
    shown = f"{interval.mean:+.4f}{half}"
    return f"**{shown}**" if interval.sign else shown


def _sweep_table(size: str, swept: Outcomes) -> str:
    rows = []
    for what, rungs in sweep(size).items():
        losses = {rate: swept[rung.name][SWEEP_SEED].loss for rate, rung in rungs if rung.name in swept}
        best = min(losses, key=losses.__getitem__, default=None)
        for rate, loss in losses.items():
            mark = "**" if rate == best else ""
            rows.append([what, f"{rate:g}", f"{mark}{loss:.4f}{mark}"])
    return table(["what", "value", "loss"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Train, print the tables, write them where asked."""
    parser = Parser(
        prog="python -m benchmarks.ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="nano", choices=SIZES)
    parser.add_argument("--seeds", type=int, default=3, help="1, 2, .. to this one (default: 3)")
    parser.add_argument("--sweep", action="store_true", help="train the sweep of learning rates, and no rung")
    parser.add_argument(
        "--more", action="store_true", help="modern without each ingredient, and half the batch, too"
    )
    parser.add_argument("--limit", type=int, help="train at most so many runs; 0: read what there is")
    parser.add_argument(
        "--rounds", type=int, default=9, help="timed steps of each rung; 0: none (default: 9)"
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    size, limit = options.size, options.limit
    results = (options.write or Path()) / "benchmarks/results"
    before = recorded(results / f"ladder-{size}.json")
    rates = [rung for rungs in sweep(size).values() for _, rung in rungs]
    swept = run(rates, size, [SWEEP_SEED], limit if options.sweep else 0, before)
    rungs, seeds = ladder(size, more=options.more), list(range(1, options.seeds + 1))
    found = run(rungs, size, seeds, 0 if options.sweep else limit, before)
    reached = [rung for rung in rungs if rung.name in found]
    times = step_times(reached, size, options.rounds) if options.rounds and PAPER.name in found else {}
    text = page(size, found, swept, times)
    print(text)
    if options.write:
        results.mkdir(parents=True, exist_ok=True)
        raw = {
            "machine": facts(),
            "size": size,
            "rungs": _plain(found),
            "sweep": _plain(swept),
            "step_seconds": times,
        }
        (results / f"ladder-{size}.md").write_text(text)
        (results / f"ladder-{size}.json").write_text(json.dumps(raw, indent=1) + "\n")


def _plain(found: Outcomes) -> dict[str, dict[str, dict[str, float | None]]]:
    return {name: {str(seed): asdict(x) for seed, x in of_seed.items()} for name, of_seed in found.items()}


if __name__ == "__main__":
    guarded(main)
