"""Training: from a config to a run directory.

    config = load("configs/micro-softpick.yaml", ["train.steps=200"])
    train(config)

What it writes is described in `storage.run`.
"""

from training.config import Config, TrainConfig, load
from training.trainer import train

__all__ = ["Config", "TrainConfig", "load", "train"]
