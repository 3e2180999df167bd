"""Whether torch.compile pays for a run that leaves it open: a long one tries a step both ways before it begins."""

from collections.abc import Callable
from statistics import median

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor
from torch.nn.utils import get_total_norm

from attention import Phase
from attention.timing import interleaved
from common.explain import said
from data import PackedDataset, Prepared
from models import GPT, ModelError
from models.compiling import check_compiler
from training.batches import TrainingBatches
from training.config import Config
from training.forecast import at_least
from training.losses.base import Loss
from training.losses.objective import Objective
from training.rundir import began
from training.utilisation import Utilisation

ROUNDS = 5
"""Steps of either kind, in turns."""

GAIN = 0.03
"""Share of a step's time that compiling must save; less is noise, and what each sitting waits for the compiler."""

TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
"""Relative deviation that loss and gradient norm of a compiled step may have."""

SLOWEST = 1e10
"""FLOP/s that whatever trains reaches; what is short at that rate needs no measuring."""

WHOLE = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
"""Ways to train in which every process holds the whole model, so that one can try it alone."""


def compiles(config: Config, prepared: Prepared, accelerator: Accelerator) -> bool:
    """What `train.compile` is for a run; to be asked on the main process, before the run's directory is made.

    Args:
        config: settled but for this.
        prepared: the corpus as tokens.
        accelerator: set up for the run.

    Raises:
        ModelError: the config of a run that exists cannot be read, or a new one cannot be trained.
    """
    if config.train.compile is not None:
        return config.train.compile
    if (begun := began(config, "compile")) is not None:
        return begun
    if accelerator.distributed_type not in WHOLE or not _long(config, accelerator):
        return False
    pays, found = Trial(config, prepared, accelerator).verdict()
    accelerator.print(f"{config.path}: train.compile={str(pays).lower()}: {found}")
    return pays


def _long(config: Config, accelerator: Accelerator) -> bool:
    """Whether a run takes so long that trying is little of it."""
    train = config.train
    with torch.device("meta"):
        work = GPT(config.model).flops_per_token(train.length)
    operations = train.steps * train.batch_size * train.length * work
    if at_least(operations, SLOWEST) is None:
        return False
    rate = Utilisation(train, accelerator.device, accelerator.num_processes, work).measured
    return at_least(operations, rate) is not None


class Trial:
    """The first micro-batch of a run, forward and backward, as it is and compiled; nothing of it stays."""

    def __init__(self, config: Config, prepared: Prepared, accelerator: Accelerator) -> None:
        """Build what one process of the run computes.

        Raises:
            ModelError: as `TrainingBatches` and `Objective` say.
        """
        train, self.accelerator = config.train, accelerator
        self.tolerance = TOLERANCE[train.precision]
        torch.set_float32_matmul_precision(train.float32_matmul)
        set_seed(config.seed)
        network = GPT(config.model).to(accelerator.device)
        network.checkpointing = train.activation_checkpointing
        self.objective = Objective(network, train)
        batches = TrainingBatches(
            PackedDataset(prepared.train, train.length, ends=bool(train.document_end)),
            seed=config.seed,
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch_size,
            rank=0,
            processes=accelerator.num_processes,
        )
        batch = batches.at(0)[0]
        self.batch = [batch[name].to(accelerator.device) for name in ("tokens", "targets", "documents")]
        zero = torch.tensor(0, device=accelerator.device)
        self.phase = Phase(True, 0.0, zero, zero)

    def verdict(self) -> tuple[bool, str]:
        """Whether the compiled step is as right and quicker, and what was found."""
        device = self.accelerator.device
        try:
            check_compiler(device, "torch.compile")
            compiled = torch.compile(self.objective)
            pairs = zip(self.step(self.objective), self.step(compiled), strict=True)
            if any(not abs(found - right) <= self.tolerance * abs(right) for right, found in pairs):
                return False, "the compiled step has another loss or gradient"
            runs = {"plain": lambda: self.step(self.objective), "compiled": lambda: self.step(compiled)}
            plain, mine = map(median, interleaved(runs, ROUNDS, device).values())
        except ModelError as error:
            return False, str(error)
        except Exception as error:  # The compiler fails in many ways, and the run can do without it.
            return False, f"it fails here: {type(error).__name__}: {said(error)}"
        finally:
            torch._dynamo.reset()
        times = f"forward and backward take {mine:.3g} s compiled and {plain:.3g} s as they are"
        return mine <= (1 - GAIN) * plain, times

    def step(self, model: Callable[..., Loss]) -> list[float]:
        """Loss and gradient norm, the gradient gone again."""
        with self.accelerator.autocast():
            loss = model(*self.batch, self.phase)
        loss.total.backward()
        parameters = list(self.objective.parameters())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.objective.zero_grad()
        found: Tensor = torch.stack([loss.total.detach().float(), norm.float()])
        return found.tolist()
