"""Checks of autograd's modes beside a backward pass: each is right, or refused in one line.

The truth is the formula in float64: its outputs, its gradients, and central differences of both.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from attention.conformance.inputs import Inputs, RefusedError, ask, make
from attention.conformance.verdict import ConformanceError, dtypes, each, root_mean_square
from attention.core.call import Phase
from attention.core.errors import AttentionError
from attention.core.mechanism import Mechanism
from attention.functional import attend

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""Root mean square error relative to the truth's."""

STEP = 1e-6
LENGTH = 11
"""Beyond the chunk of a variant of every chunked mechanism."""

Tensors = tuple[Tensor, ...]


@dataclass
class _Trial:
    """A call as a function of all that has a gradient: query, key, value and learned parameters.

    Attributes:
        names: of the learned parameters.
        leaves: what it is called on.
        tangents: a direction, of as many tensors.
        grad_out: what comes back.
    """

    mechanism: Mechanism
    kernel: str
    dtype: torch.dtype
    names: tuple[str, ...]
    leaves: Tensors
    tangents: Tensors
    grad_out: Tensor

    @classmethod
    def of(cls, mechanism: Mechanism, kernel: str, device: torch.device | str) -> "_Trial":
        """In the most precise dtype that the kernel takes."""
        dtype = dtypes(mechanism, kernel, device)[0]
        inputs = make(2, LENGTH, heads=2, key_heads=1, head_dim=8, seed=3).to(dtype, device)
        params = mechanism.initial_values(*inputs.query.shape[2:])
        wide = torch.promote_types(dtype, torch.float32)
        learned = (x.to(inputs.query.device, wide) for x in params.values())
        leaves = (*(x.detach() for x in inputs.all[:3]), *learned)
        generator = torch.Generator().manual_seed(4)
        tangents = tuple(
            torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device, x.dtype) for x in leaves
        )
        return cls(mechanism, kernel, dtype, tuple(params), leaves, tangents, inputs.grad_out)

    def __call__(self, *leaves: Tensor) -> Tensor:
        """Outputs. In training: outside of it a mechanism may cut a gradient on purpose."""
        query, key, value, *learned = leaves
        params = dict(zip(self.names, learned, strict=True))
        phase = Phase(training=True, progress=0.3, seed=torch.tensor(1, device=query.device))
        inputs = Inputs(query, key, value, self.grad_out)
        ask(inputs, self.mechanism, self.kernel, params=params, phase=phase)
        return attend(query, key, value, self.mechanism, kernel=self.kernel, params=params, phase=phase)

    def loss(self, *leaves: Tensor) -> Tensor:
        """The sum of outputs times `grad_out`."""
        return (self(*leaves) * self.grad_out).sum()

    def truth(self) -> "_Trial":
        """The formula in float64."""
        wide = (tuple(x.double() for x in tensors) for tensors in (self.leaves, self.tangents))
        leaves, tangents = wide
        grad_out = self.grad_out.detach().double()
        return replace(
            self, kernel="dense", dtype=torch.float64, leaves=leaves, tangents=tangents, grad_out=grad_out
        )

    def part(self, sequences: slice) -> "_Trial":
        """The same for some of the sequences."""
        leaves, tangents = ((*(x[sequences] for x in y[:3]), *y[3:]) for y in (self.leaves, self.tangents))
        return replace(self, leaves=leaves, tangents=tangents, grad_out=self.grad_out[sequences])

    def gradients(self, leaves: Tensors) -> Tensors:
        """Differentiate the loss by one backward pass."""
        leaves = tuple(x.detach().requires_grad_() for x in leaves)
        return torch.autograd.grad(self.loss(*leaves), leaves)

    def difference(self, function: Callable[[Tensors], Tensors]) -> Tensors:
        """The derivative of a function of the leaves along the tangents, by central differences."""
        ahead, behind = (
            function(tuple(x + sign * STEP * t for x, t in zip(self.leaves, self.tangents, strict=True)))
            for sign in (1, -1)
        )
        return tuple((x - y) / (2 * STEP) for x, y in zip(ahead, behind, strict=True))

    def judge(self, what: str, found: Tensors, truth: Tensors) -> None:
        """Fail unless each tensor is close to its truth.

        Raises:
            ConformanceError: one is not.
        """
        for number, (actual, expected) in enumerate(zip(found, truth, strict=True)):
            if actual.shape != expected.shape:
                raise ConformanceError(f"{what}, {number}: {list(actual.shape)}, not {list(expected.shape)}")
            error, size = (root_mean_square(x) for x in (actual.double() - expected, expected))
            if not error <= TOLERANCE[self.dtype] * size + 1e-9:
                raise ConformanceError(f"{what}, {number}: off by {error:.3g} where {size:.3g} is right")


def forward_mode(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Tangents of outputs, by dual numbers and by `torch.func.jvp`, and of gradients (forward over reverse)."""
    trial = _Trial.of(mechanism, kernel, device)
    truth = trial.truth()
    with _asking():
        tangent = torch.func.jvp(trial, trial.leaves, trial.tangents)[1]
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, trial.leaves, trial.tangents)
            dual = forward_ad.unpack_dual(trial(*duals)).tangent
        gradient = torch.func.grad(trial.loss, argnums=tuple(range(len(trial.leaves))))
        turned = torch.func.jvp(gradient, trial.leaves, trial.tangents)[1]
    expected = truth.difference(lambda leaves: (truth(*leaves),))
    trial.judge("torch.func.jvp", (tangent,), expected)
    trial.judge("dual numbers", (torch.zeros_like(tangent) if dual is None else dual,), expected)
    trial.judge("forward over reverse", turned, truth.difference(truth.gradients))


def second_derivatives(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Gradients of gradients, by `create_graph` and by `torch.func.grad` twice."""
    trial = _Trial.of(mechanism, kernel, device)
    truth, places = trial.truth(), tuple(range(len(trial.leaves)))
    leaves = tuple(x.requires_grad_() for x in trial.leaves)

    def along(*leaves: Tensor) -> Tensor:
        gradients = torch.func.grad(trial.loss, argnums=places)(*leaves)
        return sum((x * t).sum() for x, t in zip(gradients, trial.tangents, strict=True))  # type: ignore[return-value]

    with _asking():
        gradients = torch.autograd.grad(trial.loss(*leaves), leaves, create_graph=True)
        twice = torch.autograd.grad(gradients, leaves, trial.tangents, materialize_grads=True)
        functional = torch.func.grad(along, argnums=places)(*(x.detach() for x in leaves))
    expected = truth.difference(truth.gradients)
    trial.judge("create_graph", twice, expected)
    trial.judge("torch.func.grad twice", functional, expected)


def transforms(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """`torch.func.grad`, `vjp`, and rows of `jacrev`, which is `vmap` over a backward pass."""
    trial = _Trial.of(mechanism, kernel, device)
    with _asking():
        gradients = torch.func.grad(trial.loss, argnums=tuple(range(len(trial.leaves))))(*trial.leaves)
        out, pull = torch.func.vjp(trial, *trial.leaves)[:2]
        pulled = pull(trial.grad_out)
        rows = torch.func.jacrev(lambda query: trial(query, *trial.leaves[1:])[:, -1, 0, :2])(trial.leaves[0])
    truth = trial.truth()
    expected = truth.gradients(truth.leaves)
    trial.judge("torch.func.grad", gradients, expected)
    trial.judge("torch.func.vjp", (out, *pulled), (truth(*truth.leaves), *expected))
    pushed = (rows * trial.tangents[0]).sum((-4, -3, -2, -1))
    still = tuple(torch.zeros_like(x) for x in truth.tangents[1:])
    truth.tangents = (truth.tangents[0], *still)
    (along,) = truth.difference(lambda leaves: (truth(*leaves)[:, -1, 0, :2],))
    trial.judge("torch.func.jacrev", (pushed,), (along,))


def vectorised(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """`vmap` over calls, over gradients of single sequences, and over the gradients that come back."""
    trial = _Trial.of(mechanism, kernel, device)
    truth = trial.truth()
    (query, key, value, *learned), grad_out = trial.leaves, trial.grad_out

    def one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return trial(query[None], key[None], value[None], *learned)[0]

    def loss(query: Tensor, key: Tensor, value: Tensor, grad_out: Tensor) -> Tensor:
        return (one(query, key, value) * grad_out).sum()

    def calls() -> None:
        mapped = torch.vmap(one)(query, key, value)
        single = torch.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(query, key, value, grad_out)
        # Noise is a function of a sequence's place in its batch, and each is the first of its own call here.
        first = truth.part(slice(1))
        trial.judge("torch.vmap", (mapped[:1],), (first(*first.leaves),))
        trial.judge(
            "torch.vmap of gradients", tuple(x[:1] for x in single), first.gradients(first.leaves)[:3]
        )

    def gradients() -> None:
        leaves = tuple(x.detach().requires_grad_() for x in trial.leaves)
        several = torch.stack([grad_out, -2 * grad_out])
        found = torch.autograd.grad(trial(*leaves), leaves[:3], several, is_grads_batched=True)
        expected = truth.gradients(truth.leaves)[:3]
        trial.judge("is_grads_batched", found, tuple(torch.stack([x, -2 * x]) for x in expected))

    def attempt(part: Callable[[], None]) -> None:
        with _quiet(), _asking():
            part()

    each((calls, gradients), attempt)


def recomputation(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Checkpointing of both kinds, saved tensors that were packed away, and the search for anomalies."""
    trial = _Trial.of(mechanism, kernel, device)
    expected = trial.truth().gradients(trial.truth().leaves)
    leaves = tuple(x.detach().requires_grad_() for x in trial.leaves)

    def gradients(out: Tensor) -> Tensors:
        return torch.autograd.grad(out, leaves, trial.grad_out)

    with _quiet(), _asking():
        trial.judge("checkpoint", gradients(checkpoint(trial, *leaves, use_reentrant=False)), expected)
        leaf = tuple(x.detach().requires_grad_() for x in trial.leaves)
        checkpoint(trial, *leaf, use_reentrant=True).backward(trial.grad_out)
        trial.judge("reentrant checkpoint", tuple(x.grad for x in leaf), expected)  # type: ignore[misc]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x.clone()):
            out = trial(*leaves)
        trial.judge("saved tensors elsewhere", gradients(out), expected)
        with torch.autograd.set_detect_anomaly(True):
            trial.judge("search for anomalies", gradients(trial(*leaves)), expected)


def surroundings(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Without gradients, in inference mode and under autocast, the outputs of a training step."""
    trial = _Trial.of(mechanism, kernel, device)
    with _asking():
        leaves = tuple(x.detach().requires_grad_() for x in trial.leaves)
        expected = trial(*leaves).detach().double()
        with torch.no_grad():
            trial.judge("no_grad", (trial(*leaves),), (expected,))
        with torch.inference_mode():
            trial.judge("inference_mode", (trial(*(x.clone() for x in trial.leaves)),), (expected,))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            out = trial(*leaves)
        if out.dtype != trial.dtype:
            raise ConformanceError(f"autocast: {out.dtype}, not the query's {trial.dtype}")
        trial.judge("autocast", (out,), (expected,))


@contextmanager
def _asking() -> Iterator[None]:
    """Return a kernel's refusal of a mode that it does not serve."""
    try:
        yield
    except RefusedError:
        raise
    except AttentionError as error:
        raise RefusedError(str(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns where it maps an operator in a loop, and of anomaly detection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
