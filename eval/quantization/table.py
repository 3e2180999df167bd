"""`python -m eval.quantization.table RUN [RUN ...]`: measured quantization of several runs as a Markdown table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.command import Parser, guarded
from eval.analyses.quantize import scores
from eval.analysis import read
from models import ModelError


def main() -> None:
    """Read the results of every run and print them side by side."""
    parser = Parser(
        "python -m eval.quantization.table",
        description="What python -m eval quantize has measured, a row per method and a column per run.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with eval/quantize.json")
    print(table({path.name: _results(path) for path in parser.parse_args().runs}))


def table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per method and bits: bits per weight, and by run the change of the loss and its 95 % interval."""
    names = list(runs)
    by_run = {name: scores(results) for name, results in runs.items()}
    methods = dict.fromkeys(method for found in by_run.values() for method in found)
    lines = [
        ["method, bits", "bits per weight", *names],
        ["---"] * (2 + len(names)),
        [
            "full precision: loss",
            "",
            *(f"{results['full_precision']['loss']:.4f}" for results in runs.values()),
        ],
    ]
    tokens = [results.get("calibration", {}).get("tokens") for results in runs.values()]
    if any(tokens):
        lines.append(
            ["calibration: tokens", "", *("–" if count is None else f"{count:,}" for count in tokens)]
        )
    for method in methods:
        sizes = [score[method].get("bits_per_weight") for score in by_run.values() if method in score]
        size = "" if sizes[0] is None else f"{sizes[0]:.2f}"
        lines.append([method, size, *(_cell(by_run[name].get(method)) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "–"
    interval = "" if score["interval"] is None else f" ± {score['interval']:.4f}"
    return f"{score['delta_loss']:+.4f}{interval}"


def _results(path: Path) -> Mapping[str, Any]:
    result = read(path / "eval" / "quantize.json")
    if result is None:
        raise ModelError(f"{path} has no eval/quantize.json; python -m eval quantize {path} writes it")
    return result["results"]


if __name__ == "__main__":
    guarded(main)
