"""A network as accelerate prepared it: the forward passes, gradients and sums of one process among many.

DDP, FSDP and DeepSpeed act where the module that accelerate wrapped is called: there sharded weights are gathered and
gradients are waited for. So every forward pass, of training, validation and diagnosis alike, is work for that module.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from attention import Phase
from models import GPT, ModelError
from models.block import Block
from training.average import Average
from training.batches import Batch, TrainingBatches
from training.config import TrainConfig
from training.losses import Loss
from training.losses.objective import Objective
from training.optimizers import build_optimizer

T = TypeVar("T")
Work = Callable[[Objective], T]
"""Something to compute with the objective, or with the network inside it."""


class Root(nn.Module):
    """The module that accelerate wraps; its forward pass does the work that it is given."""

    _no_split_modules = (Block.__name__,)
    """Read by accelerate: the classes whose modules FSDP shards one by one."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, work: Work[T]) -> T:
        """What `work` makes of the objective."""
        return work(self.objective)  # type: ignore[arg-type]


class Engine:
    """A network in training on one process of one or many.

    Attributes:
        accelerator: what prepared it.
        network: the plain model, to look at; what is computed with it goes through `compute`.
        root, optimizer: as accelerate wrapped them.
        parameters: those of the network by name, of each what this process keeps of it.
        average: of the parameters over the steps, None where none is asked for.
    """

    def __init__(
        self, accelerator: Accelerator, network: GPT, train: TrainConfig, batches: TrainingBatches
    ) -> None:
        """Place, cast and shard the network with its objective and optimizer.

        Raises:
            ModelError: DeepSpeed with what it cannot do, or as `Objective` says.
        """
        self.accelerator = accelerator
        self.network = network
        accelerator.gradient_accumulation_steps = batches.micro_batches
        if self.deepspeed:
            # DeepSpeed clips, and takes the step, inside the backward pass of the last micro-batch.
            accelerator.state.deepspeed_plugin.deepspeed_config.update(
                train_micro_batch_size_per_gpu=batches.micro_batch_size,
                gradient_accumulation_steps=batches.micro_batches,
                gradient_clipping=train.clip or 0.0,
            )
            if train.orthograd or train.ema is not None or train.optimizer != "adamw":
                raise ModelError(
                    "DeepSpeed takes its step in the backward pass, in parts of its own; use train.orthograd=false, "
                    "train.ema=null and train.optimizer=adamw with it"
                )
        objective = Objective(network, train)
        if train.compile:
            objective = torch.compile(objective)  # type: ignore[assignment]
        root = Root(objective)
        self.root, self.optimizer = accelerator.prepare(root, build_optimizer(network, train))
        self.parameters: dict[str, Tensor] = dict(network.named_parameters())
        self.average = None if train.ema is None else Average(self.parameters, train.ema)

    def compute(self, work: Work[T]) -> T:
        """Do work in the forward pass of the wrapped module, in the precision of training."""
        with self.accelerator.autocast():
            result: T = self.root(work)
        if isinstance(self.root, FSDPModule) and not torch.is_grad_enabled():
            self.root.reshard()  # FSDP leaves that to the backward pass, which does not come
        return result

    def loss(self, batch: Batch, phase: Phase) -> Loss:
        """What is minimised on a batch, at a moment of the training."""
        return self.compute(
            lambda objective: objective(batch["tokens"], batch["targets"], batch["documents"], phase)
        )

    def gradient_norm(self) -> Tensor:
        """Norm of the whole gradient, before clipping: by a non-finite norm, clipping would damage every part."""
        if self.deepspeed:
            return torch.as_tensor(self.accelerator.clip_grad_norm_(self.root.parameters(), math.inf))
        self.accelerator.unscale_gradients()
        return get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])

    def clip(self, largest: float, norm: Tensor) -> None:
        """Shorten a gradient of the given norm to at most `largest`; DeepSpeed has done it."""
        if not self.deepspeed:
            clip_grads_with_norm_(self.parameters.values(), largest, norm)

    def sum(self, value: float | Tensor) -> Tensor:
        """Sum over the processes, in float64."""
        total = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        summed: Tensor = self.accelerator.reduce(total, "sum")
        return summed

    def count(self, targets: int, unknown: int, where: str) -> int:
        """Targets over all processes, of which this one has `targets`, and `unknown` tokens outside the vocabulary.

        Raises:
            ModelError: there are none, or unknown ones.
        """
        total, strange = map(int, self.sum(torch.tensor([targets, unknown])).tolist())
        if strange:
            size = self.network.plan.vocab_size
            raise ModelError(
                f"{strange} tokens of {where} lie outside the vocabulary of {size}: the prepared corpus is damaged"
            )
        if total == 0:
            raise ModelError(f"{where} has no token to predict")
        return total

    def place(self, batch: Batch) -> Batch:
        """A batch on this process's device."""
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    @property
    def loss_scale(self) -> float:
        """What float16 training multiplies losses by."""
        return 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed runs the network, which steps and saves in its own way."""
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED
