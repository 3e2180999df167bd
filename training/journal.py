"""What a run says and writes down: the progress bar, lines beside it, metrics.jsonl and the tracker."""

import sys
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from storage import log
from training.config import Config
from training.tracking import tracker_options


class Journal:
    """One sitting's records; every process calls every method, and the main one speaks."""

    def __init__(self, config: Config, accelerator: Accelerator, step: int, fingerprint: str) -> None:
        """Begin after `step`; the fingerprint is that of the config."""
        self._config = config
        self._accelerator = accelerator
        if config.train.tracker != "none":
            accelerator.init_trackers(**tracker_options(config, step, fingerprint))
        self.bar = tqdm(
            total=config.train.steps,
            initial=step,
            desc=config.name,
            unit="step",
            disable=not accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 15,
            dynamic_ncols=True,
        )

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._accelerator.is_main_process:
            self.bar.write(line)

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Write values of a step to the log and the tracker."""
        if self._accelerator.is_main_process:
            log.append(self._config.path, {"step": step} | values)
        self._accelerator.log({k: v for k, v in values.items() if not isinstance(v, str)}, step=step)
