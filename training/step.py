"""One optimiser step: the gradient of the mean over all its target tokens, or why the step was skipped."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from attention import Phase
from models import ModelError
from training.batches import Batch, TrainingBatches, count_targets, count_unknown
from training.checkpoint import TrainerState
from training.config import Config
from training.diagnosis import ADVICE, find_cause, refuse_damage
from training.engine import Engine
from training.noise_scale import GradientSquares
from training.orthograd import orthogonalise
from training.schedules import learning_rate
from training.sharding import number

PATIENCE = 10
"""Steps in a row that may be skipped for non-finite values before the run is stopped."""


@dataclass
class StepResult:
    """One optimiser step: its target tokens, means per target token of the cross-entropy in nats and of what was
    minimised, norm of the gradient, and why it was skipped if so.
    """

    targets: int
    loss: float
    objective: float
    gradient_norm: float
    learning_rate: float
    skipped: str | None = None


class Stepper:
    """Takes the steps of a run, on every process."""

    def __init__(self, config: Config, engine: Engine, batches: TrainingBatches) -> None:
        self.train = config.train
        self.seed = config.seed
        self.engine = engine
        self.batches = batches
        several = batches.micro_batches * engine.accelerator.num_processes > 1
        self.squares = GradientSquares(engine.root) if several and not engine.deepspeed else None

    def take(self, state: TrainerState) -> StepResult:
        """Take the step after `state.step`, or skip it where it is not finite, and count it in the state.

        Raises:
            ModelError: a batch that cannot be learned from, weights that are not finite, or too many skipped steps.
        """
        engine = self.engine
        batches = [engine.place(batch) for batch in self.batches.at(state.step)]
        unknown = count_unknown(batches, engine.network.plan.vocab_size)
        targets = engine.count(count_targets(batches), unknown, f"the batch of step {state.step + 1}")
        rate = learning_rate(state.step, self.train)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        nats, total, small = self._accumulate(batches, targets, state.step)
        norm = engine.gradient_norm()
        result = StepResult(targets, nats / targets, total / targets, number(norm), rate)
        if math.isfinite(total) and math.isfinite(result.gradient_norm):
            if small is not None:
                state.noise_scale.update(*small, result.gradient_norm**2, targets)
            if self.train.orthograd:
                orthogonalise(engine.network)
            if self.train.clip is not None:
                engine.clip(self.train.clip, norm)
            engine.optimizer.step()
            if engine.average is not None:
                engine.average.update(state.step + 1 - state.skipped)
            state.skipped_in_a_row = 0
            state.tokens += targets
        else:
            result.skipped = self._skip(batches, state)
        engine.optimizer.zero_grad()
        state.step += 1
        return result

    def _accumulate(
        self, batches: list[Batch], targets: int, step: int
    ) -> tuple[float, float, tuple[float, float] | None]:
        """Gradient of the mean over all target tokens of the step, whatever micro-batch or process they are in.

        accelerate divides by the number of micro-batches and averages over processes; both are undone here.

        Returns:
            Over all processes: the summed cross-entropy of the step in nats, the sum that was minimised, and what
            `NoiseScale.update` wants to know of micro-batches, None where the step is a single one.
        """
        engine = self.engine
        processes = engine.accelerator.num_processes
        scale = self.batches.micro_batches * processes / targets
        sums = torch.zeros(5, device=engine.accelerator.device, dtype=torch.float64)
        for batch, phase in self._in_turn(batches, step):
            with engine.accelerator.accumulate(engine.root):
                loss = engine.loss(batch, phase)
                engine.accelerator.backward(loss.total * scale)
            sums[:2] += torch.stack([loss.nats, loss.total.detach()])
            if self.squares is not None and (share := count_targets([batch])):
                # The backward pass brought processes / targets times the sum over this micro-batch.
                mean = targets / (processes * share * engine.loss_scale)
                sums[2:] += torch.stack(
                    [self.squares.take() * mean**2, sums.new_tensor(1 / share), sums.new_ones(())]
                )
        nats, total, squares, inverses, count = engine.sum(sums).tolist()
        return nats, total, (squares / count, inverses / count) if count else None

    def _in_turn(self, batches: list[Batch], step: int) -> Iterator[tuple[Batch, Phase]]:
        """The micro-batches of a step, each with when it happens.

        Noise is a function of seed, step and place in the step's batch, so that it does not depend on how that is cut.
        """
        source = np.random.SeedSequence([self.seed, step])
        device = self.engine.accelerator.device
        seed = torch.tensor(int(source.generate_state(1, np.uint64)[0]) >> 24, device=device)
        progress = step / self.train.steps
        for micro, batch in enumerate(batches):
            first = torch.tensor(self.batches.first(micro), device=device)
            yield batch, Phase(True, progress, seed, first)

    def _skip(self, batches: list[Batch], state: TrainerState) -> str:
        """Leave the weights as they are and say why; ten times in a row end the run."""
        engine = self.engine
        cause = find_cause(engine, self._in_turn(batches, state.step))
        if engine.deepspeed:
            raise ModelError(
                f"step {state.step + 1} is not finite and DeepSpeed has taken it already: {cause}"
            )
        if engine.accelerator.scaler is not None:
            engine.optimizer.step()  # takes no step on non-finite gradients, and lowers the loss scale
        state.skipped += 1
        state.skipped_in_a_row += 1
        refuse_damage(engine, state.step)
        if state.skipped_in_a_row >= PATIENCE:
            raise ModelError(
                f"{PATIENCE} steps in a row were not finite, the last one step {state.step + 1}: {cause}; {ADVICE}"
            )
        return cause
