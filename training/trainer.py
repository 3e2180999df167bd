"""The training loop.

accelerate places the model, casts, shards and reduces. What it would get wrong is done here: the order of the data
(`batches`), the mean over the tokens of a whole step (`_accumulate`), and checkpoints that are whole or absent.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from attention import Phase
from data import PackedDataset, Prepared, prepare
from models import GPT, ModelError
from training import initial
from training.batches import Batch, TrainingBatches, count_targets, count_unknown, validation_batches
from training.boundary import one_line
from training.checkpoint import SHARDED, Checkpointer, TrainerState
from training.config import Config, fingerprint, resolve_precision, settled
from training.diagnosis import find_cause, moments_of, not_finite, number, weights_of
from training.journal import Journal
from training.launch import (
    agreed,
    check_launch,
    check_memory,
    choose_device,
    from_main,
    keep_process_group,
    make_accelerator,
)
from training.lock import RunLock
from training.losses.objective import Objective
from training.noise_scale import GradientSquares
from training.optimizers import OPTIMIZERS, build_optimizer
from training.orthograd import orthogonalise
from training.rundir import check_free, learns_ends, open_run
from training.schedules import learning_rate
from training.stopping import StopRequest
from training.telemetry import Mean, Throughput, attention_statistics, matmul_rate
from training.validation import HeldOut

PATIENCE = 10
"""Steps in a row that may be skipped for non-finite values before the run is stopped."""

_ADVICE = "try a lower train.learning_rate, a train.clip or another precision under another name="


def train(config: Config, *, resume: bool = False) -> Path:
    """Train a model as the config says, or continue where its run stopped.

    SIGTERM and Ctrl-C end it early with a checkpoint of the step in progress.

    Returns:
        The run directory.

    Raises:
        ModelError: a run directory, checkpoint, launch or config that cannot be used, a run directory that another
            process trains in; weights that are not finite, ten skipped steps in a row, or a run that ends on one; a
            system that does not let it write. Names the newest good checkpoint where the run had begun.
        DataError, AttentionError: as their packages say.
    """
    device = choose_device()
    precision = resolve_precision(config.train.precision, device)
    accelerator = make_accelerator(config, precision)
    check_launch(accelerator, config.train.processes)
    keep_process_group()
    with RunLock(config.path) as lock:
        from_main(accelerator, lock.acquire)
        from_main(accelerator, lambda: check_free(config, resume))
        ends = config.train.document_end
        if ends is None:
            ends = from_main(accelerator, lambda: learns_ends(config))
        with accelerator.main_process_first():
            prepared = prepare(config.data)
        config = settled(config, precision, ends, prepared.tokenizer.vocab_size)
        check_memory(config.model, accelerator.device)
        start = from_main(accelerator, lambda: open_run(config, prepared))
        if start == config.train.steps:
            accelerator.print(f"{config.path} is already complete: {start} of {config.train.steps} steps")
            return config.path
        trainer = Trainer(config, accelerator, prepared, fresh=start is None)
        if start is not None:
            trainer.resume(start)
        with one_line(config.path):
            trainer.run()
    return config.path


@dataclass
class StepResult:
    """One optimiser step: means per target token of the cross-entropy in nats and of what was minimised, norm of the
    gradient, and why it was skipped if so.
    """

    loss: float
    objective: float
    gradient_norm: float
    learning_rate: float
    skipped: str | None = None


class Trainer:
    """A model in training, with its data, optimiser and records."""

    def __init__(
        self, config: Config, accelerator: Accelerator, prepared: Prepared, fresh: bool = True
    ) -> None:
        """Build everything that `run` needs.

        Args:
            config: resolved.
            accelerator: set up for it.
            prepared: the corpus as tokens.
            fresh: whether the run begins here, and so with the weights of `train.init_from`.
        """
        self.config = config
        self.accelerator = accelerator
        train = config.train
        torch.set_float32_matmul_precision(train.float32_matmul)
        set_seed(config.seed)
        self.network = GPT(config.model)
        self.network.checkpointing = train.activation_checkpointing
        if fresh and train.init_from is not None:
            for line in initial.begin(self.network, config, prepared.tokenizer):
                accelerator.print(f"{config.path}: {line}")
        self.batches = TrainingBatches(
            PackedDataset(prepared.train, train.length, ends=bool(train.document_end)),
            seed=config.seed,
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch_size,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.held_out = PackedDataset(prepared.valid, train.length, ends=bool(train.document_end))
        if len(self.held_out) == 0:
            raise ModelError(
                "the held-out text is shorter than one sequence; raise data.held_out or lower train.length"
            )
        self.bytes_per_token = prepared.bytes_per_token("valid")
        accelerator.gradient_accumulation_steps = self.batches.micro_batches
        if self._deepspeed:
            # DeepSpeed clips, and takes the step, inside the backward pass of the last micro-batch.
            accelerator.state.deepspeed_plugin.deepspeed_config.update(
                train_micro_batch_size_per_gpu=self.batches.micro_batch_size,
                gradient_accumulation_steps=self.batches.micro_batches,
                gradient_clipping=train.clip or 0.0,
            )
        if self._deepspeed and train.orthograd:
            raise ModelError(
                "DeepSpeed takes its step in the backward pass; use train.orthograd=false with it"
            )
        objective = Objective(self.network, train)
        model = torch.compile(objective) if train.compile else objective
        self.model, self.optimizer = accelerator.prepare(model, build_optimizer(self.network, train))
        self.squares: GradientSquares | None = None
        if (
            self.batches.micro_batches * accelerator.num_processes > 1
            and accelerator.distributed_type not in SHARDED
        ):
            self.squares = GradientSquares(self.network.parameters())
        self.checkpointer = Checkpointer(
            config.path,
            accelerator,
            self.model,
            self.network,
            self.optimizer,
            train.keep_checkpoints,
            OPTIMIZERS[train.optimizer].MEMORY,
        )
        self.losses = Mean()
        self.cause = ""
        self.state = TrainerState(fingerprint(config), prepared.fingerprint, accelerator.num_processes)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[train.precision]
        self.peak = matmul_rate(accelerator.device, dtype) * accelerator.num_processes

    def resume(self, step: int) -> None:
        """Be as the run was at the checkpoint of a step."""
        self.state = self.checkpointer.load(step)

    def run(self) -> None:
        """Train from the step that is reached to the last one or a stop signal."""
        self.journal = Journal(self.config, self.accelerator, self.state.step, self.state.config)
        began = time.perf_counter() - self.state.seconds
        with StopRequest() as stop, self.journal.bar:
            self.journal.say(self._headline())
            if self.state.step == 0:
                self._validate()
            self.throughput = Throughput()
            while self.state.step < self.config.train.steps:
                result = self._step()
                self.state.seconds = time.perf_counter() - began
                self._report(result)
                stopping = self._sum(float(stop.requested)) > 0
                with self.throughput.paused():
                    saving = stopping or self._due(self.config.train.checkpoint_every)
                    if saving:
                        self._refuse_damage()
                    if self._due(self.config.train.validate_every):
                        self._validate()
                    if saving:
                        self._save(last=stopping or self.state.step == self.config.train.steps)
                if stopping:
                    self.journal.say(
                        f"stopped after step {self.state.step}; the same command with --resume continues"
                    )
                    break
        self.accelerator.end_training()

    def _save(self, last: bool) -> None:
        """Write a checkpoint, unless the last steps were skipped: what made them so may be in the weights.

        Raises:
            ModelError: there is nothing to save and no further step.
        """
        if not self._skipping:
            self.state.loss = self.losses.take()
            self.checkpointer.save(self.state)
        elif last:
            raise ModelError(
                f"the run ends at step {self.state.step} with {self.state.skipped_in_a_row} skipped steps, which are "
                f"not saved: {self.cause}"
            )
        else:
            self.journal.say(f"step {self.state.step}: no checkpoint is made of skipped steps")

    @property
    def _skipping(self) -> bool:
        """Whether the last steps came to nothing; float16 skips one or two to find its loss scale."""
        return self.state.skipped_in_a_row > (0 if self.accelerator.scaler is None else 2)

    def _refuse_damage(self) -> None:
        """Refuse to go on with weights or moments that are not finite, which no further step would mend."""
        damage = not_finite(weights_of(self.network)) or not_finite(moments_of(self.network, self.optimizer))

        def check() -> None:
            if damage:
                raise ModelError(
                    f"after step {self.state.step}, {damage}; nothing of it was saved; {_ADVICE}"
                )

        agreed(self.accelerator, check)

    def _step(self) -> StepResult:
        batches = [self._to_device(batch) for batch in self.batches.at(self.state.step)]
        unknown = count_unknown(batches, self.network.plan.vocab_size)
        targets = self._targets(count_targets(batches), unknown, f"the batch of step {self.state.step + 1}")
        rate = learning_rate(self.state.step, self.config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nats, total, small = self._accumulate(batches, targets)
        norm = self._gradient_norm()
        result = StepResult(nats / targets, total / targets, number(norm), rate)
        if math.isfinite(total) and math.isfinite(result.gradient_norm):
            if small is not None:
                self.state.noise_scale.update(*small, result.gradient_norm**2, targets)
            if self.config.train.orthograd:
                orthogonalise(self.network)
            if self.config.train.clip is not None and not self._deepspeed:
                clip_grads_with_norm_(self.network.parameters(), self.config.train.clip, norm)
            self.optimizer.step()
            self.state.skipped_in_a_row = 0
            self.state.tokens += targets
            self.losses.add(result.loss)
        else:
            result.skipped = self.cause = self._skip(batches)
        self.optimizer.zero_grad()
        self.state.step += 1
        self.throughput.tokens += targets
        return result

    def _accumulate(
        self, batches: list[Batch], targets: int
    ) -> tuple[float, float, tuple[float, float] | None]:
        """Gradient of the mean over all target tokens of the step, whatever micro-batch or process they are in.

        accelerate divides by the number of micro-batches and averages over processes; both are undone here.

        Returns:
            Over all processes: the summed cross-entropy of the step in nats, the sum that was minimised, and what
            `NoiseScale.update` wants to know of micro-batches, None where the step is a single one.
        """
        processes = self.accelerator.num_processes
        scale = self.batches.micro_batches * processes / targets
        sums = torch.zeros(5, device=self.accelerator.device, dtype=torch.float64)
        for batch, phase in self._in_turn(batches):
            with self.accelerator.accumulate(self.model):
                loss = self.model(batch["tokens"], batch["targets"], batch["documents"], phase)
                self.accelerator.backward(loss.total * scale)
            sums[:2] += torch.stack([loss.nats, loss.total.detach()])
            if self.squares is not None and (share := count_targets([batch])):
                # The backward pass brought processes / targets times the sum over this micro-batch.
                mean = targets / (processes * share * self._loss_scale)
                sums[2:] += torch.stack(
                    [self.squares.take() * mean**2, sums.new_tensor(1 / share), sums.new_ones(())]
                )
        nats, total, squares, inverses, count = self.accelerator.reduce(sums, "sum").tolist()
        return nats, total, (squares / count, inverses / count) if count else None

    def _in_turn(self, batches: list[Batch]) -> Iterator[tuple[Batch, Phase]]:
        """The micro-batches of a step, each with when it happens.

        Noise is a function of seed, step and place in the step's batch, so that it does not depend on how that is cut.
        """
        source = np.random.SeedSequence([self.config.seed, self.state.step])
        device = self.accelerator.device
        seed = torch.tensor(int(source.generate_state(1, np.uint64)[0]) >> 24, device=device)
        progress = self.state.step / self.config.train.steps
        for micro, batch in enumerate(batches):
            first = torch.tensor(self.batches.first(micro), device=device)
            yield batch, Phase(True, progress, seed, first)

    def _targets(self, mine: int, unknown: int, where: str) -> int:
        """Target tokens over all processes, of which this one has `mine`, and `unknown` tokens outside the vocabulary.

        Raises:
            ModelError: there are none, or unknown ones.
        """
        counts = torch.tensor([mine, unknown], dtype=torch.float64, device=self.accelerator.device)
        targets, strange = map(int, self.accelerator.reduce(counts, "sum").tolist())
        if strange:
            size = self.config.model.vocab_size
            raise ModelError(
                f"{strange} tokens of {where} lie outside the vocabulary of {size}: the prepared corpus is damaged"
            )
        if targets == 0:
            raise ModelError(f"{where} has no token to predict")
        return targets

    @property
    def _loss_scale(self) -> float:
        """What float16 training multiplies losses by."""
        return 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()

    def _gradient_norm(self) -> Tensor:
        """Norm of the whole gradient, before clipping: by a non-finite norm, clipping would damage every part."""
        if self._deepspeed:
            return torch.as_tensor(self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf))
        self.accelerator.unscale_gradients()
        return get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])

    def _skip(self, batches: list[Batch]) -> str:
        """Leave the weights as they are and say why; ten times in a row end the run."""
        cause = find_cause(self.network, self._in_turn(batches), self.accelerator.autocast())
        if self._deepspeed:
            raise ModelError(
                f"step {self.state.step + 1} is not finite and DeepSpeed has taken it already: {cause}"
            )
        if self.accelerator.scaler is not None:
            self.optimizer.step()  # takes no step on non-finite gradients, and lowers the loss scale
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        self._refuse_damage()
        if self.state.skipped_in_a_row >= PATIENCE:
            raise ModelError(
                f"{PATIENCE} steps in a row were not finite, the last one step {self.state.step + 1}: {cause}; "
                f"{_ADVICE}"
            )
        return cause

    @torch.no_grad()
    def _validate(self) -> None:
        """Loss on held-out text, and what each layer's attention does on one of its sequences."""
        sums, shard = HeldOut(self.accelerator.device), self.held_out.shard
        batches = validation_batches(
            self.held_out,
            sequences=self.config.train.validation_sequences,
            micro_batch_size=self.batches.micro_batch_size,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        with self.accelerator.autocast():
            sums.add(self.network, map(self._to_device, batches), shard.bos)
        total = self._targets(sums.tokens, sums.unknown, "the held-out text")
        ends = int(self._sum(sums.ends))
        assert sums.first is not None
        with self.accelerator.autocast():
            statistics = attention_statistics(
                self.network, {name: value[:1] for name, value in sums.first.items()}
            )
        loss = self._sum(sums.nats) / total
        end_loss = {"end_loss": self._sum(sums.end_nats) / ends} if ends else {}
        bits_per_byte = loss / math.log(2) / self.bytes_per_token
        self.journal.say(
            f"step {self.state.step}: validation loss {loss:.4f} nats/token, {bits_per_byte:.4f} bits/byte"
        )
        self.journal.record(
            self.state.step,
            {"validation_loss": loss, "bits_per_byte": bits_per_byte, "validation_tokens": total}
            | end_loss
            | statistics,
        )

    def _report(self, result: StepResult) -> None:
        self.journal.bar.update()
        if result.skipped is not None:
            self.journal.say(f"step {self.state.step} skipped: {result.skipped}")
            self.journal.record(self.state.step, {"skipped": result.skipped})
        elif self._due(self.config.train.log_every):
            rate = self.throughput.rate()
            utilisation = rate * self.network.flops_per_token(self.config.train.length) / self.peak
            self.journal.bar.set_postfix_str(f"loss {result.loss:.4f}, {rate:,.0f} tokens/s", refresh=False)
            values = {
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": result.learning_rate,
                "tokens": self.state.tokens,
                "tokens_per_second": rate,
                "mfu": utilisation,
                "seconds": self.state.seconds,
            }
            if result.objective != result.loss:
                values["objective"] = result.objective
            if self.squares is not None and (tokens := self.state.noise_scale.tokens) is not None:
                values["noise_scale"] = tokens
            self.journal.record(self.state.step, values)

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.train.steps

    def _headline(self) -> str:
        train, accelerator = self.config.train, self.accelerator
        return (
            f"{self.config.path}: {self.config.model.attention}, {self.network.parameter_count():,} parameters, "
            f"{len(self.batches.dataset):,} sequences of {train.length}, batch {train.batch_size} "
            f"({accelerator.num_processes} process(es) x {self.batches.micro_batches} x "
            f"{self.batches.micro_batch_size}), {accelerator.device.type}, {train.precision}"
        )

    def _to_device(self, batch: Batch) -> Batch:
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def _sum(self, value: float | Tensor) -> float:
        """Sum over the processes."""
        total = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(total, "sum"))
