"""The choice of a kernel for a call. Kernels differ in rounding, speed and memory, never in mathematics."""

import pkgutil
from importlib import import_module

from attention import kernels
from attention.core.arguments import shown
from attention.core.errors import AttentionError, nearest, quoted
from attention.core.inputs import AttentionInputs
from attention.kernels import proof
from attention.kernels.kernel import Kernel, obstacle


def _found() -> dict[str, Kernel]:
    """The kernels of every module beside this one."""
    names = [f"{kernels.__name__}.{module.name}" for module in pkgutil.iter_modules(kernels.__path__)]
    modules = [import_module(name) for name in names if name != __name__]
    found = [x for module in modules for x in vars(module).values() if _is_kernel(x)]
    return {kernel.name: kernel for kernel in sorted(found, key=lambda kernel: kernel.rank)}


def _is_kernel(value: object) -> bool:
    return not isinstance(value, type) and isinstance(value, Kernel)


KERNELS: dict[str, Kernel] = _found()
"""Fastest first: the order in which "auto" tries them."""


def choose(name: str, inputs: AttentionInputs) -> Kernel:
    """The kernel by name, or the fastest capable one for "auto"; all that it needs is built, and has proven itself.

    Raises:
        AttentionError: unknown kernel, or one that cannot serve the call; those that can are named.
    """
    if not isinstance(name, str):
        raise AttentionError(f"kernel must be a kernel's name, got {shown(name)}")
    if name == "auto":
        return next(kernel for kernel in KERNELS.values() if serves(kernel, inputs, aloud=True))
    if name not in KERNELS:
        raise AttentionError(f"unknown kernel {quoted(name)}{nearest(name, [*KERNELS, 'auto'])}")
    reason = obstacle(KERNELS[name], inputs) or proof.flaw(KERNELS[name], inputs)
    if reason:
        capable = [kernel.name for kernel in KERNELS.values() if serves(kernel, inputs)]
        raise AttentionError(
            f"kernel {name!r} cannot run {inputs.mechanism.name} here: {reason}; use {', '.join(capable)}"
        )
    return KERNELS[name]


def serves(kernel: Kernel, inputs: AttentionInputs, *, aloud: bool = False) -> bool:
    """Whether a kernel can serve a call and has proven itself; `aloud`: a failed proof is a warning, once."""
    return obstacle(kernel, inputs) is None and proof.flaw(kernel, inputs, aloud=aloud) is None
