"""Show files of an evaluation where a run's curves are: `python -m training.push runs/NAME runs/heatmaps.png`.

Pictures (.png) go to TensorBoard or Weights & Biases, pages (.html) to the latter, each under its file's name, at the
step of the run's newest checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.command import Parser, guarded
from models import ModelError
from storage import checkpoint_path, checkpoints
from storage.run import read_run
from training.checkpoint import read_state
from training.config import TrainConfig
from training.tracking import require_tracker, wandb_options, wandb_project


def push(run: Path, files: Sequence[Path]) -> None:
    """Write files into what tracks a run.

    Raises:
        ModelError: no such run or file, a run without tracker or checkpoint, or a file that its tracker cannot show.
    """
    train = _tracking(read_run(run)[0].get("train") or {})
    if train.tracker == "none":
        raise ModelError(f"run {run} has train.tracker=none, and so nowhere to show files")
    kinds = {".png"} if train.tracker == "tensorboard" else {".png", ".html"}
    for file in files:
        if file.suffix not in kinds or not file.is_file():
            raise ModelError(
                f"{file} is no {' or '.join(sorted(kinds))} file, which {train.tracker} can show"
            )
    if not (steps := checkpoints(run)):
        raise ModelError(f"run {run} has no checkpoint yet")
    require_tracker(train.tracker)
    (_to_tensorboard if train.tracker == "tensorboard" else _to_wandb)(run, files, steps[-1], train)


def _tracking(saved: dict[str, Any]) -> TrainConfig:
    """The keys about trackers of a run that was saved, perhaps before there were all of them."""
    known = {key: value for key, value in saved.items() if key == "tracker" or key.startswith("wandb_")}
    return TrainConfig(**known)


def _to_tensorboard(run: Path, files: Sequence[Path], step: int, train: TrainConfig) -> None:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard")) as writer:
        for file in files:
            picture = np.asarray(Image.open(file).convert("RGB"))
            writer.add_image(file.stem, picture, step, dataformats="HWC")


def _to_wandb(run: Path, files: Sequence[Path], step: int, train: TrainConfig) -> None:
    import wandb

    fingerprint = read_state(checkpoint_path(run, step)).config
    options = wandb_options(train, run.resolve().name, str(run), fingerprint)
    with wandb.init(project=wandb_project(train), **options) as tracked:
        shown = {
            file.stem: wandb.Html(str(file)) if file.suffix == ".html" else wandb.Image(str(file))
            for file in files
        }
        tracked.log(shown)


def main() -> None:
    """Parse the command line and push."""
    parser = Parser(description="Show files of an evaluation in the tracker of a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help=".png, or .html for W&B")
    arguments = parser.parse_args()
    push(arguments.run, arguments.files)


if __name__ == "__main__":
    guarded(main)
