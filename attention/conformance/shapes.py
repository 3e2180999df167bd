"""Every shape and memory layout of queries, keys and values, gradients included."""

import torch
from torch import Tensor

from attention.conformance.inputs import Inputs, make, run
from attention.conformance.verdict import CANCELLED, SLACK, compare, dtypes, each, eager_in_both_orders, judge
from attention.core.mechanism import Mechanism

HEAD_DIMS = (16, 24, 64, 80, 128, 256)
VALUE_DIMS = ((64, 32), (24, 40), (32, 128))
GROUPS = ((4, 1), (4, 2), (6, 3))
SHORT = {1: 32, 2: 3, 3: 64, 4: 16, 5: 128}
"""Lengths that kernels may take another way, and a head dimension for each."""
SHORT_SLACK = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
LENGTHS = ((1, 1), (2, 2), (17, 17), (67, 67), (129, 129), (300, 300), (1, 70), (17, 67), (64, 129))


def head_dims(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Head dimensions of small and large models, powers of two and not."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(head_dim: int) -> None:
        inputs = make(batch=1, queries=21, heads=2, key_heads=1, head_dim=head_dim).to(dtype, device)
        compare(inputs, mechanism, kernel, dtype, f"head_dim {head_dim}")

    each(HEAD_DIMS, attempt)


def value_dims(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Values narrower and wider than queries."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(dims: tuple[int, int]) -> None:
        head_dim, value_dim = dims
        inputs = make(1, 21, heads=2, key_heads=1, head_dim=head_dim, value_dim=value_dim).to(dtype, device)
        compare(inputs, mechanism, kernel, dtype, f"head_dim {head_dim}, value_dim {value_dim}")

    each(VALUE_DIMS, attempt)


def grouped_heads(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Query heads that share a key head, against the formula on repeated keys and values."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(heads: tuple[int, int]) -> None:
        n_head, key_heads = heads
        inputs = make(queries=19, heads=n_head, key_heads=key_heads, head_dim=16).to(dtype, device)
        result = run(inputs, mechanism, kernel)
        truth, eager = (_repeated(inputs.to(precision), mechanism) for precision in (torch.float64, dtype))
        judge(result, truth, eager, f"{n_head} query heads, {key_heads} key heads", SLACK[dtype])

    each(GROUPS, attempt)


def _repeated(inputs: Inputs, mechanism: Mechanism) -> dict[str, Tensor]:
    key_heads = inputs.key.shape[2]
    group = inputs.query.shape[2] // key_heads
    key, value = (x.detach().repeat_interleave(group, 2).requires_grad_() for x in (inputs.key, inputs.value))
    expected = run(Inputs(inputs.query, key, value, inputs.grad_out), mechanism, "dense")
    for name in ("key", "value"):
        expected[name] = expected[name].unflatten(2, (key_heads, group)).sum(3)
    return expected


def ragged_lengths(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Lengths below, at and above those of blocks, and more keys than queries."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(lengths: tuple[int, int]) -> None:
        queries, keys = lengths
        inputs = make(2, queries, keys, heads=2, key_heads=1, head_dim=16).to(dtype, device)
        compare(
            inputs,
            mechanism,
            kernel,
            dtype,
            f"{queries} queries, {keys} keys",
            floor=CANCELLED if keys == 1 else 0.0,
        )

    each(LENGTHS, attempt)


def short_lengths(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """One to five queries, as many keys and more, in many sequences: a wrong term, which few of them may show."""
    for dtype in dtypes(mechanism, kernel, device):
        if dtype not in SHORT_SLACK:
            continue
        for queries, head_dim in SHORT.items():
            for keys in (queries, queries + 3):
                inputs = make(64, queries, keys, heads=4, key_heads=2, head_dim=head_dim).to(dtype, device)
                truth = run(inputs.to(torch.float64), mechanism, "dense")
                eager = eager_in_both_orders(inputs, mechanism, truth)
                what = f"{queries} queries, {keys} keys, {dtype}"
                judge(
                    run(inputs, mechanism, kernel), truth, eager, what, SHORT_SLACK[dtype], float(keys == 1)
                )


def non_contiguous(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Heads before positions, slices of one fused projection, and the gradient of a sum, which has no strides."""
    dtype = dtypes(mechanism, kernel, device)[0]
    plain = make(queries=37, heads=2, key_heads=2, head_dim=16).to(dtype, device)
    truth, eager = (run(plain.to(precision), mechanism, "dense") for precision in (torch.float64, dtype))

    def attempt(layout: str) -> None:
        if layout == "heads first":
            tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in plain.all]
        else:
            fused = torch.stack(plain.all, 2)
            tensors = list(fused.unbind(2))
        inputs = Inputs(*(x.detach().requires_grad_(x is not tensors[-1]) for x in tensors))
        judge(run(inputs, mechanism, kernel), truth, eager, layout, SLACK[dtype])

    each(("heads first", "fused projection"), attempt)
    summed = plain.to(dtype)
    summed.grad_out = torch.ones((), dtype=dtype, device=device).expand_as(plain.grad_out)
    compare(summed, mechanism, kernel, dtype, "gradient of a sum", floor=1.0)
