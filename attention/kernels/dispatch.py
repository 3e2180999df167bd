"""Which kernel runs what. Kernels differ in rounding, speed and memory, never in mathematics."""

from attention.arguments import shown
from attention.errors import AttentionError, nearest, quoted
from attention.kernels import chunked, cpu, dense, flex, tiled, triton, vendor
from attention.kernels.kernel import Kernel
from attention.kernels.problem import Problem

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        vendor.FLASH,
        triton.KERNEL,
        cpu.KERNEL,
        flex.KERNEL,
        chunked.KERNEL,
        tiled.KERNEL,
        vendor.SDPA,
        dense.KERNEL,
    )
}
"""Fastest first: the order in which "auto" tries them."""


def choose(name: str, problem: Problem) -> Kernel:
    """The kernel by name, or the fastest capable one for "auto".

    Raises:
        AttentionError: unknown kernel, or one that cannot serve the problem; those that can are named.
    """
    if not isinstance(name, str):
        raise AttentionError(f"kernel must be a kernel's name, got {shown(name)}")
    if name == "auto":
        return next(kernel for kernel in KERNELS.values() if kernel.refuses(problem) is None)
    if name not in KERNELS:
        raise AttentionError(f"unknown kernel {quoted(name)}{nearest(name, [*KERNELS, 'auto'])}")
    reason = KERNELS[name].refuses(problem)
    if reason:
        capable = [kernel.name for kernel in KERNELS.values() if kernel.refuses(problem) is None]
        raise AttentionError(
            f"kernel {name!r} cannot run {problem.mechanism.name} here: {reason}; use {', '.join(capable)}"
        )
    return KERNELS[name]
