"""TensorBoard and Weights & Biases, beside metrics.jsonl."""

from importlib.util import find_spec
from typing import Any

from models import ModelError
from training.config import Config, as_dict


def require_tracker(tracker: str) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        ModelError: says what to install.
    """
    if tracker != "none" and find_spec(tracker) is None:
        raise ModelError(
            f"train.tracker={tracker} needs the package: pip install {tracker}, or train.tracker=none"
        )


def tracker_options(config: Config, step: int, fingerprint: str) -> dict[str, Any]:
    """What `Accelerator.init_trackers` is to be called with, for a run that goes on from `step`."""
    settings: dict[str, Any] = {
        # Entries after the resumed step were written by a sitting that is being repeated.
        "tensorboard": {"purge_step": step + 1 if step else None},
        "wandb": {
            "name": config.name,
            "dir": str(config.path),
            "id": f"{config.name}-{fingerprint[:8]}",
            "resume": "allow",
        },
    }
    wandb = config.train.tracker == "wandb"
    return {
        "project_name": "attention-zoo" if wandb else "tensorboard",
        "config": as_dict(config) if wandb else None,
        "init_kwargs": settings,
    }
