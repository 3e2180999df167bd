"""Compare on the offline tasks what they should tell apart: a run, the same model before training, and a unigram model.

    python -m eval.lm_tasks.separation runs/NAME [--samples 200]

prints a table of each task's metrics with their standard errors over documents, and by how many standard errors of the
difference, document by document, the run is better than the better of the two others. The unigram model gives every
token its frequency in the training text (plus one), whatever stands before it; a task that it can do better than by
chance does not need a language model.
"""

import math
import statistics
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from common.command import Parser, guarded
from eval.analyses import harness
from eval.analyses.harness import Metric
from eval.intervals import standard_error
from eval.subject import open_subject
from eval.subjects.base import Places, Subject
from eval.subjects.run import RunSubject
from models import GPT, ModelError


def main() -> None:
    """Parse the command line and print the table."""
    parser = Parser("python -m eval.lm_tasks.separation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", help="run directory")
    parser.add_argument("--samples", type=int, default=200, help="documents per task (default: 200)")
    arguments = parser.parse_args()
    settings = harness.Settings(samples=arguments.samples)
    harness.before(settings)
    run, blank, counts = (open_run(arguments.run) for _ in range(3))
    models = {"unigram": unigram(counts), "untrained": untrained(blank, run.config["seed"]), "trained": run}
    scores = {name: harness.run(subject, settings).results.tasks for name, subject in models.items()}
    print(f"| task | metric | chance | {' | '.join(models)} | apart |\n| --- | --- | --- |{' --- |' * 4}")
    for task, entry in scores["trained"].items():
        for metric in entry.metrics:
            found = {name: tasks[task].metrics[metric] for name, tasks in scores.items()}
            known = entry.chance if metric.startswith("acc") else None
            distance = apart(found)
            cells = [*map(_cell, found.values()), "–" if distance is None else f"{distance:.1f}"]
            print(f"| {task} | {metric} | {known or '–'} | {' | '.join(cells)} |")


def apart(metrics: Mapping[str, Metric]) -> float | None:
    """Standard errors of the difference by which "trained" is better than whichever of the others is closer.

    All answered the same questions, so the difference is taken document by document. None for a metric that has no
    parts.
    """
    parts = {name: metric.parts for name, metric in metrics.items() if metric.parts is not None}
    if len(parts) < len(metrics):
        return None
    own = parts.pop("trained")
    sign = 1 if metrics["trained"].higher_is_better else -1
    distances = []
    for theirs in parts.values():
        differences = [sign * (value - theirs[unit]) for unit, value in own.items()]
        distances.append(statistics.fmean(differences) / (standard_error(differences) or math.inf))
    return min(distances)


def open_run(path: str) -> RunSubject:
    """A run of this project.

    Raises:
        ModelError: what lies there is another kind of model, whose training text is unknown.
    """
    subject = open_subject(path)
    if not isinstance(subject, RunSubject):
        raise ModelError(f"{path} is no run of this project; its training text is unknown")
    return subject


def untrained(subject: RunSubject, seed: int) -> Subject:
    """The subject with the weights that a new model draws from this seed in place of its own."""
    torch.manual_seed(seed)
    subject.network.load_state_dict(GPT(subject.network.plan).state_dict())
    return subject


def unigram(subject: RunSubject) -> Subject:
    """The subject with frequencies of the training text in place of its network."""
    _, prepared = subject.own_corpus()
    counts = np.bincount(prepared.train.tokens, minlength=subject.vocab_size) + 1.0
    frequencies = torch.from_numpy(counts).float().log()

    def logits(tokens: Tensor, at: Places | None = None) -> Tensor:
        return frequencies.expand(*(tokens.shape if at is None else at[0].shape), -1)

    subject.logits = logits  # type: ignore[method-assign]
    return subject


def _cell(metric: Metric) -> str:
    stderr = metric.stderr if metric.parts is None else standard_error(metric.parts.values())
    return f"{metric.value:.4g}" if stderr is None else f"{metric.value:.3f} ± {stderr:.3f}"


if __name__ == "__main__":
    guarded(main)
