"""`python -m eval.quantization RUN DIR --method gptq --bits 4`: write a run with packed weights, ready to generate."""

import argparse
from pathlib import Path

from common.command import Parser, guarded
from eval import results
from eval.analyses.quantize import ANALYSIS, Settings
from eval.quantization.methods import WEIGHT_METHODS, WeightQuantizer
from eval.quantization.weights import Quantized, packed_parameters
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.subjects.run import RunSubject
from models import ModelError
from storage import checkpoint_path, load_run, save_quantized
from storage.checkpoint import WEIGHTS
from storage.codes import MOST_BITS


def main() -> None:
    """Parse the command line, quantize, write the run, say how large it is."""
    arguments = _parser().parse_args()
    if not 1 <= arguments.bits <= MOST_BITS:
        raise ModelError(f"--bits must be 1 to {MOST_BITS}, got {arguments.bits}")
    if arguments.destination.exists():
        raise ModelError(f"{arguments.destination} exists; choose another folder")
    subject = open_subject(arguments.run, step=arguments.step, allow_network=arguments.allow_network)
    if not isinstance(subject, RunSubject):
        raise ModelError(
            f"{arguments.run} is no run of this project; only those are written with packed weights"
        )
    if arguments.found is None:
        settings = Settings(
            group=arguments.group, calibration=arguments.calibration, damping=arguments.damping
        )
        quantized = _quantizer(subject, settings).quantize(arguments.method, arguments.bits)
        how = {"method": arguments.method, "bits": arguments.bits}
    else:
        settings, widths = _search(subject, arguments.found)
        quantizer = _quantizer(subject, settings)
        database = {bits: quantizer.quantize("gptq", bits) for bits in sorted(set(widths.values()))}
        quantized = {name: database[bits][name] for name, bits in widths.items()}
        how = {"method": "gptq", "bits": widths}
    _write(subject, quantized, arguments.destination, how | {"group": settings.group})


def _write(subject: Subject, quantized: Quantized, destination: Path, how: dict) -> None:
    run = load_run(subject.path, subject.step)
    file = save_quantized(run, destination, packed_parameters(quantized), how)
    before, after = (path.stat().st_size for path in (checkpoint_path(run.path, run.step) / WEIGHTS, file))
    print(f"{file}: {after:,} bytes, {after / before:.1%} of {before:,}")
    print(f"python -m models.generate {destination} writes text with it")


def _quantizer(subject: Subject, settings: Settings) -> WeightQuantizer:
    length = settings.length or min(subject.train_length, settings.longest)
    return WeightQuantizer(subject, settings.group, length, settings.calibration, settings.damping)


def _search(subject: Subject, path: Path) -> tuple[Settings, dict[str, int]]:
    """Settings and widths of the search that a result file of this checkpoint holds."""
    file = results.read(path)
    search = None if file is None else ANALYSIS.read(file).search
    if file is None or search is None:
        raise ModelError(f"{path} holds no search; python -m eval quantize RUN --methods search makes one")
    if file["subject"]["checkpoint"] != subject.checkpoint:
        raise ModelError(f"{path} is of another checkpoint than step {subject.step} of {subject.path}")
    (found,) = search.values()
    kept = file["protocol"]["settings"]
    names = ("group", "length", "longest", "calibration", "damping")
    return Settings(**{name: kept[name] for name in names}), dict(found.widths)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m eval.quantization", description="Write a run whose weights are packed integers."
    )
    parser.add_argument("run", help="run directory")
    parser.add_argument("destination", type=Path, help="the new run directory")
    parser.add_argument("--method", choices=WEIGHT_METHODS, default="gptq", help="default: gptq")
    parser.add_argument("--bits", type=int, default=4, help="per weight, default: 4")
    parser.add_argument("--group", type=int, default=64, help="weights that share step and zero, default: 64")
    calibration = Settings().calibration
    parser.add_argument(
        "--calibration",
        type=int,
        default=calibration,
        help=f"windows of training text, default: {calibration}",
    )
    parser.add_argument("--damping", type=float, default=0.01, help="of gptq, default: 0.01")
    parser.add_argument(
        "--found",
        type=Path,
        metavar="FILE",
        help="RUN/eval/quantize.json with a search: gptq with its widths",
    )
    parser.add_argument(
        "--allow-network",
        action="store_true",
        help="open a corpus of the Hugging Face hub that the run's config names",
    )
    parser.add_argument("--step", type=int, help="checkpoint (default: the latest)")
    return parser


if __name__ == "__main__":
    guarded(main)
