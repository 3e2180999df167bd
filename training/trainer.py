"""The training loop.

accelerate places the model, casts, shards and reduces (`engine`). What it would get wrong is done here: the order of
the data (`batches`), the mean over the tokens of a whole step (`step`), and checkpoints that are whole or absent.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from data import PackedDataset, Prepared, prepare
from models import GPT, ModelError
from models.compiling import check_compiler
from training import initial
from training.batches import TrainingBatches
from training.boundary import one_line
from training.checkpoint import Checkpointer, TrainerState
from training.compiling import compiles
from training.config import Config, fingerprint, resolve_precision, settled
from training.diagnosis import refuse_damage
from training.engine import Engine
from training.forecast import Forecast, at_least
from training.journal import Journal
from training.launch import (
    check_launch,
    check_launcher,
    check_memory,
    choose_device,
    from_main,
    keep_process_group,
    make_accelerator,
    rank,
)
from training.lock import RunLock
from training.optimizers import OPTIMIZERS
from training.profiling import profiled
from training.rundir import check_free, learns_ends, open_run
from training.step import Stepper, StepResult
from training.stopping import StopRequest
from training.telemetry import Mean, Throughput
from training.tracking import require_tracker
from training.utilisation import Utilisation
from training.validation import Validation


def train(config: Config, *, resume: bool = False) -> Path:
    """Train a model as the config says, or continue where its run stopped.

    SIGTERM and Ctrl-C end it early with a checkpoint of the step in progress.

    Returns:
        The run directory.

    Raises:
        ModelError: a run directory, checkpoint, launch or config that cannot be used, a run directory that another
            process trains in; weights that are not finite, ten skipped steps in a row, or a run that ends on one; a
            system that does not let it write, or has no compiler where one is asked for. Names the newest good
            checkpoint where the run had begun.
        DataError, AttentionError: as their packages say.
    """
    device = choose_device()
    precision = resolve_precision(config.train.precision, device)
    check_launcher()
    require_tracker(config.train.tracker)
    if config.train.compile:
        check_compiler(device, "train.compile")
    with RunLock(config.path) as lock:
        if rank() == 0:
            lock.acquire()
        check_free(config, resume)
        # Before there is a process group: nobody waits in a collective, which has a timeout, for a corpus.
        prepared = prepare(config.data)
        accelerator = make_accelerator(config, precision)
        check_launch(accelerator, config.train.processes)
        keep_process_group()
        ends = config.train.document_end
        if ends is None:
            ends = from_main(accelerator, lambda: learns_ends(config))
        config = settled(config, precision, ends, prepared.tokenizer.vocab_size)
        check_memory(config.model, accelerator.device)
        compiled = from_main(accelerator, lambda: compiles(config, prepared, accelerator))
        config = replace(config, train=replace(config.train, compile=compiled))
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
        train = config.train
        torch.set_float32_matmul_precision(train.float32_matmul)
        set_seed(config.seed)
        network = GPT(config.model)
        network.checkpointing = train.activation_checkpointing
        if fresh and train.init_from is not None:
            for line in initial.begin(network, config, prepared.tokenizer):
                accelerator.print(f"{config.path}: {line}")
        self.size, self.work = network.parameter_count(), network.flops_per_token(train.length)
        ends = bool(train.document_end)
        self.batches = TrainingBatches(
            PackedDataset(prepared.train, train.length, ends=ends),
            seed=config.seed,
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch_size,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.engine = Engine(accelerator, network, train, self.batches)
        self.stepper = Stepper(config, self.engine, self.batches)
        self.validation = Validation(
            self.engine,
            PackedDataset(prepared.valid, train.length, ends=ends),
            sequences=train.validation_sequences,
            micro_batch_size=self.batches.micro_batch_size,
            bytes_per_token=prepared.bytes_per_token("valid"),
        )
        self.checkpointer = Checkpointer(
            config.path,
            self.engine,
            train.keep_checkpoints,
            OPTIMIZERS[train.optimizer].MEMORY,
            background=train.checkpoint_async,
        )
        self.losses, self.forecast = Mean(), Forecast()
        self.cause = ""
        self.state = TrainerState(fingerprint(config), prepared.fingerprint, accelerator.num_processes)
        self.utilisation = Utilisation(train, accelerator.device, accelerator.num_processes, self.work)

    def resume(self, step: int) -> None:
        """Be as the run was at the checkpoint of a step."""
        self.state = self.checkpointer.load(step)

    def run(self) -> None:
        """Train from the step that is reached to the last one or a stop signal."""
        train, accelerator = self.config.train, self.engine.accelerator
        self.journal = Journal(self.config, accelerator, self.state.step, self.state.config)
        tracing = profiled(self.config.path, train.profile, accelerator.process_index)
        began = time.perf_counter() - self.state.seconds
        with StopRequest() as stop, self.journal.bar, tracing as traced, self.checkpointer.thread:
            self.journal.say(self._headline())
            self._foretell()
            if self.state.step == 0:
                self._validate()
            self.throughput = Throughput()
            while self.state.step < train.steps:
                started = time.perf_counter()
                result = self.stepper.take(self.state)
                traced()
                self.state.seconds = time.perf_counter() - began
                self._report(result)
                self._foretell(time.perf_counter() - started)
                stopping = bool(self.engine.sum(float(stop.requested)) > 0)
                with self.throughput.paused():
                    saving = stopping or self._due(train.checkpoint_every)
                    if saving:
                        refuse_damage(self.engine, self.state.step)
                    if self._due(train.validate_every):
                        self._validate()
                    if saving:
                        self._save(last=stopping or self.state.step == train.steps)
                if stopping:
                    self.journal.say(
                        f"stopped after step {self.state.step}; the same command with --resume continues"
                    )
                    break
        accelerator.end_training()

    def _save(self, last: bool) -> None:
        """Write a checkpoint, unless the last steps were skipped: what made them so may be in the weights.

        Raises:
            ModelError: there is nothing to save and no further step.
        """
        if not self._skipping:
            self.state.loss = self.losses.take()
            self.checkpointer.save(self.state)
            if last:
                self.checkpointer.finish()
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
        return self.state.skipped_in_a_row > (0 if self.engine.accelerator.scaler is None else 2)

    def _foretell(self, seconds: float | None = None) -> None:
        """Say how long the run will take, as far as it is known before the first step, or after one of so long."""
        steps = self.config.train.steps - self.state.step
        if seconds is None:
            tokens = steps * self.config.train.batch_size * self.config.train.length
            line = at_least(tokens * self.work, self.utilisation.measured)
        else:
            line = self.forecast.stepped(seconds, steps, steps // self.config.train.validate_every)
        if line is not None:
            self.journal.say(f"step {self.state.step}: {line}")

    def _validate(self) -> None:
        began = time.perf_counter()
        found = self.validation.measure()
        self.forecast.validated(time.perf_counter() - began)
        self.journal.say(
            f"step {self.state.step}: validation loss {found['validation_loss']:.4f} nats/token, "
            f"{found['bits_per_byte']:.4f} bits/byte"
        )
        self.journal.record(self.state.step, found)

    def _report(self, result: StepResult) -> None:
        self.journal.bar.update()
        self.throughput.tokens += result.targets
        if result.skipped is not None:
            self.cause = result.skipped
            self.journal.say(f"step {self.state.step} skipped: {result.skipped}")
            self.journal.record(self.state.step, {"skipped": result.skipped})
            return
        self.losses.add(result.loss)
        if self._due(self.config.train.log_every):
            rate = self.throughput.rate()
            self.journal.bar.set_postfix_str(f"loss {result.loss:.4f}, {rate:,.0f} tokens/s", refresh=False)
            values = {
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": result.learning_rate,
                "tokens": self.state.tokens,
                "tokens_per_second": rate,
                "seconds": self.state.seconds,
            } | self.utilisation.at(rate)
            if result.objective != result.loss:
                values["objective"] = result.objective
            if self.stepper.squares is not None and (tokens := self.state.noise_scale.tokens) is not None:
                values["noise_scale"] = tokens
            self.journal.record(self.state.step, values)

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.train.steps

    def _headline(self) -> str:
        train, batches, accelerator = self.config.train, self.batches, self.engine.accelerator
        return (
            f"{self.config.path}: {self.config.model.attention}, {self.size:,} parameters, "
            f"{len(batches.dataset):,} sequences of {train.length}, batch {train.batch_size} "
            f"({accelerator.num_processes} process(es) x {batches.micro_batches} x "
            f"{batches.micro_batch_size}), {accelerator.device.type}, {train.precision}"
        )
