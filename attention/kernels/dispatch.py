"""Which kernel runs what. Kernels differ in rounding, speed and memory, never in mathematics."""

from attention.core.arguments import shown
from attention.core.errors import AttentionError, nearest, quoted
from attention.core.inputs import AttentionInputs
from attention.kernels import chunked, cpu, dense, flex, tiled, triton, vendor
from attention.kernels.kernel import Kernel

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


def choose(name: str, inputs: AttentionInputs) -> Kernel:
    """The kernel by name, or the fastest capable one for "auto".

    Raises:
        AttentionError: unknown kernel, or one that cannot serve the call; those that can are named.
    """
    if not isinstance(name, str):
        raise AttentionError(f"kernel must be a kernel's name, got {shown(name)}")
    if name == "auto":
        return next(kernel for kernel in KERNELS.values() if kernel.refuses(inputs) is None)
    if name not in KERNELS:
        raise AttentionError(f"unknown kernel {quoted(name)}{nearest(name, [*KERNELS, 'auto'])}")
    reason = KERNELS[name].refuses(inputs)
    if reason:
        capable = [kernel.name for kernel in KERNELS.values() if kernel.refuses(inputs) is None]
        raise AttentionError(
            f"kernel {name!r} cannot run {inputs.mechanism.name} here: {reason}; use {', '.join(capable)}"
        )
    return KERNELS[name]
