"""A small call of a kernel, forward and backward, judged by the formula in float64.

The call has many queries in two documents; a second one has a single query that sees all keys, as in decoding, and no
gradient. Errors are judged as ratios: root mean squares may be twice those of the formula in the same dtype.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.core.mechanism import Mechanism
from attention.kernels.dense import KERNEL as DENSE
from attention.kernels.kernel import Kernel

SLACK = {torch.float64: 1e-8, torch.float32: 2.0**-19, torch.bfloat16: 2.0**-10, torch.float16: 2.0**-13}
"""Allowed on top, relative to the truth. In float32, sixteen units in the last place: a kernel that keeps one number
per row recomputes weights as e^(s - logsumexp) and loses digits where scores are large; torch's fused softmax does.
In half types an eighth of one, where gradients cancel and their rounding is all that is left."""

LEARNED = 100
"""Times as much slack for the gradient of a learned parameter, a sum over all positions."""

MOST = 2.0
"""Errors over those of the formula, at most."""

DOCUMENTS = (90, 60)
"""Lengths of the documents of the first call: a block of any kernel ends within them."""

CONTEXT = 600
"""Keys of the second call: as many as a kernel on a GPU splits among its processors."""


@dataclass(frozen=True)
class Case:
    """A kind of call that a kernel compiles code of its own for.

    Attributes:
        mechanism: no composite, but for kernels that run those by themselves.
        dtype, device: of queries, keys and values.
        head_dim, value_dim: widths of keys and of values.
        group: query heads per key head.
        with_mass: whether the log mass is wanted, as of the parts of composites.
    """

    mechanism: Mechanism
    dtype: torch.dtype
    device: torch.device
    head_dim: int
    value_dim: int
    group: int
    with_mass: bool = False


@dataclass(frozen=True)
class Verdict:
    """The outcome of a trial.

    Attributes:
        ratio: the largest error over that of the formula, `MOST` at most; nan where a call raised.
        flaw: what is wrong, None where nothing is.
    """

    ratio: float
    flaw: str | None


def root_mean_square(values: Tensor) -> float:
    """Over all entries, 0 where there is none."""
    return float(values.detach().double().square().mean().sqrt()) if values.numel() else 0.0


def allowed(eager: float, rounding: float, size: float, slack: float, mixings: int = 1) -> float:
    """The largest error that passes, all as root mean squares.

    Args:
        eager: error of the formula in the same dtype; rounding: that of the truth rounded to it.
        size: of the truth; slack: allowed on top, relative to it.
        mixings: how often a composite rounds, 1 for all others.
    """
    return mixings * MOST * (eager + rounding) + slack * size + 1e-12


def attempt(kernel: Kernel, case: Case) -> Verdict:
    """Run the calls.

    Raises:
        Exception: whatever the formula raises, or a lack of memory; neither says anything of the kernel.
    """
    worst = Verdict(0.0, None)
    for queries, keys, documents in ((sum(DOCUMENTS), sum(DOCUMENTS), DOCUMENTS), (1, CONTEXT, None)):
        learns = queries == keys
        tensors = _draw(case, queries, keys)
        exact = replace(case, dtype=torch.float64)
        rounded = [x.to(case.dtype) for x in tensors]
        truth = _run(DENSE, exact, [x.double() for x in rounded], documents, learns)
        eager = _run(DENSE, case, rounded, documents, learns)
        try:
            found = _run(kernel, case, rounded, documents, learns)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            return Verdict(float("nan"), f"it raises {type(error).__name__}: {words}")
        verdict = judge(found, truth, eager, case.dtype)
        if verdict.flaw:
            return verdict
        worst = max(worst, verdict, key=lambda verdict: verdict.ratio)
    return worst


def judge(
    found: dict[str, Tensor], truth: dict[str, Tensor], eager: dict[str, Tensor], dtype: torch.dtype
) -> Verdict:
    """Compare results by name with the truth in float64 and with the formula's in the same dtype."""
    worst = Verdict(0.0, None)
    for name, right in truth.items():
        if found[name].shape != right.shape:
            return Verdict(
                float("nan"), f"{name} has shape {list(found[name].shape)}, not {list(right.shape)}"
            )
        error, of_eager, rounding = (
            root_mean_square(x - right) for x in (found[name], eager[name], right.to(eager[name].dtype))
        )
        slack = SLACK[dtype] * (LEARNED if "learned" in name else 1)
        ratio = MOST * error / allowed(of_eager, rounding, root_mean_square(right), slack)
        if not ratio <= MOST:
            return Verdict(ratio, f"{name} errs {ratio:.3g} times as much as the formula, {MOST:g} may be")
        worst = max(worst, Verdict(ratio, None), key=lambda verdict: verdict.ratio)
    return worst


def _draw(case: Case, queries: int, keys: int) -> list[Tensor]:
    """Query, key, value, and the gradients of output and log mass, in float64."""
    generator = torch.Generator().manual_seed(0)
    heads = 2 * case.group
    shapes = (
        (1, queries, heads, case.head_dim),
        (1, keys, 2, case.head_dim),
        (1, keys, 2, case.value_dim),
        (1, queries, heads, case.value_dim),
        (1, queries, heads),
    )
    cpu = torch.device("cpu")
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64, device=cpu) for shape in shapes)
    return [x.to(case.device) for x in drawn]


def _run(
    kernel: Kernel,
    case: Case,
    tensors: list[Tensor],
    documents: tuple[int, ...] | None,
    learns: bool,
) -> dict[str, Tensor]:
    """Results by name: outputs, log masses and gradients, where wanted."""
    *leaves, grad_out, grad_mass = (x.detach() for x in tensors)
    wide = torch.promote_types(case.dtype, torch.float32)
    initial = case.mechanism.initial_values(leaves[0].shape[2], case.head_dim)
    params = {name: x.to(case.device, wide) for name, x in initial.items()}
    wanted = {"query": leaves[0], "key": leaves[1], "value": leaves[2]}
    wanted |= {f"learned {name}": x for name, x in params.items()}
    for leaf in wanted.values():
        leaf.requires_grad_(learns)
    ids = None
    if documents is not None:
        lengths = torch.tensor(documents, device=case.device)
        ids = torch.arange(len(documents), device=case.device).repeat_interleave(lengths)[None]
    spec = CallSpec(documents=ids, params=params)
    inputs = prepare(leaves[0], leaves[1], leaves[2], case.mechanism, spec, plain=kernel is DENSE)
    out, mass = kernel.run(inputs, with_mass=case.with_mass)
    results = {"output": out} | ({"log mass": mass} if case.with_mass and mass is not None else {})
    if not learns:
        return {name: x.detach() for name, x in results.items()}
    grads = [x.to(result.dtype) for x, result in zip((grad_out, grad_mass), results.values(), strict=False)]
    gradients = torch.autograd.grad(list(results.values()), list(wanted.values()), grads)
    found = {f"gradient of {name}": x for name, x in zip(wanted, gradients, strict=True)}
    return {name: x.detach() for name, x in results.items()} | found
