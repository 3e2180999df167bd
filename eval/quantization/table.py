"""`python -m eval.quantization.table RUN [RUN ...]`: measured quantization of several runs as a Markdown table."""

from collections.abc import Mapping
from pathlib import Path

from common.command import Parser, guarded
from eval import results
from eval.analyses.quantize import ANALYSIS, Result
from eval.quantization.scores import Score, WeightScore
from models import ModelError


def main() -> None:
    """Read the results of every run and print them side by side."""
    parser = Parser(
        "python -m eval.quantization.table",
        description="What python -m eval quantize has measured, a row per method and a column per run.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with eval/quantize.json")
    print(table({path.name: _results(path) for path in parser.parse_args().runs}))


def table(runs: Mapping[str, Result]) -> str:
    """A row per method and bits: bits per weight, and by run the change of the loss and its 95 % interval."""
    names = list(runs)
    by_run = {name: result.scores() for name, result in runs.items()}
    methods = dict.fromkeys(method for found in by_run.values() for method in found)
    lines = [
        ["method, bits", "bits per weight", *names],
        ["---"] * (2 + len(names)),
        ["full precision: loss", "", *(f"{result.full_precision.loss:.4f}" for result in runs.values())],
    ]
    calibrations = [result.calibration for result in runs.values()]
    if any(calibrations):
        tokens = ("–" if found is None else f"{found.tokens:,}" for found in calibrations)
        lines.append(["calibration: tokens", "", *tokens])
    for method in methods:
        first = next(scores[method] for scores in by_run.values() if method in scores)
        size = f"{first.bits_per_weight:.2f}" if isinstance(first, WeightScore) else ""
        lines.append([method, size, *(_cell(by_run[name].get(method)) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    interval = "" if score.interval is None else f" ± {score.interval:.4f}"
    return f"{score.delta_loss:+.4f}{interval}"


def _results(path: Path) -> Result:
    file = results.read(path / "eval" / "quantize.json")
    if file is None:
        raise ModelError(f"{path} has no eval/quantize.json; python -m eval quantize {path} writes it")
    return ANALYSIS.read(file)


if __name__ == "__main__":
    guarded(main)
