"""TensorBoard and Weights & Biases, beside metrics.jsonl."""

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from common.ranges import one_of
from models import ModelError

if TYPE_CHECKING:
    from training.config import Config

PROJECT = "attention-zoo"


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        tracker: what the log is written to beside metrics.jsonl.
        wandb_project: of Weights & Biases; null: $WANDB_PROJECT, or attention-zoo.
        wandb_entity: a user or a team there; null: $WANDB_ENTITY, or one's own.
        wandb_group: what to group runs by, such as the seeds of one model; null: $WANDB_RUN_GROUP, or none.
        wandb_tags: words separated by commas; null: $WANDB_TAGS, or none.
    """

    tracker: str = one_of("tensorboard", "wandb", "none")
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_group: str | None = None
    wandb_tags: str | None = None


def require_tracker(tracker: str) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        ModelError: says what to install.
    """
    if tracker != "none" and find_spec(tracker) is None:
        raise ModelError(
            f"train.tracker={tracker} needs the package: pip install {tracker}, or train.tracker=none"
        )


def tracker_options(config: "Config", step: int, fingerprint: str) -> dict[str, Any]:
    """What `Accelerator.init_trackers` is to be called with, for a run that goes on from `step`."""
    settings: dict[str, Any] = {
        # Entries after the resumed step were written by a sitting that is being repeated.
        "tensorboard": {"purge_step": step + 1 if step else None},
        "wandb": wandb_options(config.train, str(config.name), str(config.path), fingerprint),
    }
    wandb = config.train.tracker == "wandb"
    return {
        "project_name": wandb_project(config.train) if wandb else "tensorboard",
        "config": asdict(config) if wandb else None,
        "init_kwargs": settings,
    }


def wandb_project(options: Options) -> str:
    """The project of the config, else of the environment, else this one's name."""
    return options.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT


def wandb_options(options: Options, name: str, folder: str, fingerprint: str) -> dict[str, Any]:
    """What `wandb.init` is to be called with beside the project; what is left out it reads in the environment."""
    tags = [tag.strip() for tag in (options.wandb_tags or "").split(",") if tag.strip()]
    chosen = {"entity": options.wandb_entity, "group": options.wandb_group, "tags": tags}
    return {
        "name": name,
        "dir": folder,
        "id": f"{name}-{fingerprint[:8]}",
        "resume": "allow",
    } | {key: value for key, value in chosen.items() if value}
