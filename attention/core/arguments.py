"""The checks of arguments: types, shapes, devices and values, before anything is computed.

Checks look at types and shapes only, never at the numbers in a tensor, so that they cost microseconds, wait for no
device and are traced away by torch.compile.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from attention.core.errors import AttentionError, nearest, quoted

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LARGEST = torch.finfo(torch.float32).max
"""The largest number of float32, in which the kernels compute."""


def check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Query [B, T, H, D], key [B, S, Hk, D] and value [B, S, Hk, Dv] that belong together.

    No batch, no length and no value width are allowed, where there is nothing to compute; a head and a channel of
    queries and keys there must be.

    Raises:
        AttentionError: they do not.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        _check_plain(name, tensor)
        if tensor.dim() != 4:
            raise AttentionError(f"{name} must be [batch, length, heads, head_dim], got {list(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            raise AttentionError(f"{name} must be a floating type, got {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise AttentionError(
                f"{name} is {tensor.dtype}, the query {query.dtype}: give all the same dtype"
            )
        _check_device(name, tensor, query.device)
    batch, _, n_head, head_dim = query.shape
    if n_head == 0 or head_dim == 0:
        raise AttentionError(f"query must have at least one head and one channel, got {list(query.shape)}")
    if key.shape[0] != batch or key.shape[3] != head_dim:
        raise AttentionError(
            f"key must be [{batch}, keys, key heads, {head_dim}] for this query, got {list(key.shape)}"
        )
    if value.shape[:3] != key.shape[:3]:
        raise AttentionError(
            f"value must share batch, length and heads with the key {list(key.shape[:3])}, got {list(value.shape)}"
        )
    if key.shape[2] == 0 or n_head % key.shape[2]:
        raise AttentionError(
            f"{n_head} query heads cannot be shared by {key.shape[2]} key heads: not divisible"
        )


def check_documents(documents: Tensor, batch: int | None, keys: int, device: torch.device | None) -> None:
    """Integers [B, S] beside the tensors that they describe; a batch of None is any.

    Raises:
        AttentionError: they are not.
    """
    _check_plain("documents", documents)
    if documents.dim() != 2 or documents.shape[1] != keys or documents.dtype not in INDEX_DTYPES:
        raise AttentionError(
            f"documents must be integers [batch, {keys}], got {documents.dtype} {list(documents.shape)}"
        )
    if batch is not None and documents.shape[0] != batch:
        raise AttentionError(f"documents hold {documents.shape[0]} sequences, the queries {batch}")
    if device is not None:
        _check_device("documents", documents, device)


def check_intervals(intervals: Tensor, batch: int | None, queries: int, device: torch.device | None) -> None:
    """Integers int64 [B or 1, T, 3] beside the tensors that they describe; a batch of None is any.

    Raises:
        AttentionError: they are not.
    """
    _check_plain("intervals", intervals)
    shape = list(intervals.shape)
    if intervals.dtype != torch.int64 or len(shape) != 3 or shape[1:] != [queries, 3]:
        raise AttentionError(
            f"intervals must be int64 [batch or 1, {queries}, 3], got {intervals.dtype} {shape}"
        )
    if batch is not None and shape[0] not in (1, batch):
        raise AttentionError(f"intervals hold {shape[0]} sequences, the queries {batch}")
    if device is not None:
        _check_device("intervals", intervals, device)


def check_slopes(slopes: Tensor | None, n_head: int, device: torch.device) -> None:
    """AttentionError: neither None nor floating [H] beside the queries, without a gradient."""
    if slopes is None:
        return
    _check_plain("slopes", slopes)
    if list(slopes.shape) != [n_head] or slopes.dtype not in DTYPES:
        raise AttentionError(f"slopes must be floating [{n_head}], got {slopes.dtype} {list(slopes.shape)}")
    if slopes.requires_grad:
        raise AttentionError("slopes are constant: no kernel has their gradient; detach them")
    _check_device("slopes", slopes, device)


def check_softcap(softcap: float | None) -> None:
    """AttentionError: neither None nor a positive number that float32 holds."""
    if softcap is not None and not (is_finite(softcap) and softcap > 0):
        raise AttentionError(f"softcap must be a positive number, or None, got {shown(softcap)}")


def check_flag(name: str, value: bool) -> None:
    """AttentionError: neither True nor False."""
    if value is not True and value is not False:
        raise AttentionError(f"{name} must be True or False, got {shown(value)}")


def check_size(name: str, value: int) -> None:
    """AttentionError: no whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise AttentionError(f"{name} must be a whole number from 1 on, got {shown(value)}")


def check_window(window: int | None) -> None:
    """AttentionError: neither None nor a whole number of at least 1."""
    if window is None:
        return
    if not is_whole(window):
        raise AttentionError(f"window must be a whole number of keys, or None, got {shown(window)}")
    if window < 1:
        raise AttentionError(f"window must be at least 1 (the query itself), got {window}")


def check_scale(scale: float | None) -> None:
    """AttentionError: neither None nor a number that float32 holds."""
    if scale is not None and not is_finite(scale):
        raise AttentionError(f"scale must be a finite number of at most {LARGEST:.1e}, got {shown(scale)}")


def check_params(
    name: str, given: Mapping[str, Tensor] | None, initial: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """All learned parameters of the mechanism of this name: those given, initial values for the others.

    Raises:
        AttentionError: an unknown one, or one of another shape, type or device.
    """
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        raise AttentionError(f"params must map names to tensors, got {shown(given)}")
    for parameter, tensor in given.items():
        if parameter not in initial:
            raise AttentionError(f"{name} has no parameter {quoted(parameter)}{nearest(parameter, initial)}")
        label = f"parameter {parameter!r} of {name}"
        _check_plain(label, tensor)
        shape = initial[parameter].shape
        if tensor.shape != shape or tensor.dtype not in DTYPES:
            raise AttentionError(
                f"{label} must be floating {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
            )
        _check_device(label, tensor, device)
    return {key: given[key] if key in given else value.to(device) for key, value in initial.items()}


def check_scalar(name: str, value: Tensor, device: torch.device) -> None:
    """AttentionError: not an int64 scalar on the CPU or on this device."""
    _check_plain(name, value)
    if value.dim() != 0 or value.dtype != torch.int64:
        raise AttentionError(f"{name} must be int64 [], got {value.dtype} {list(value.shape)}")
    if value.device.type != "cpu":
        _check_device(name, value, device)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype without "torch."."""
    return str(dtype).removeprefix("torch.")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and not True or False."""
    if type(value) is int:
        return True
    return isinstance(value, Integral | torch.SymInt) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a number that float32 can hold."""
    if type(value) is float:
        return -LARGEST <= value <= LARGEST
    if isinstance(value, bool) or not isinstance(value, Real | torch.SymInt | torch.SymFloat):
        return False
    number: Any = value
    return bool(-LARGEST <= number <= LARGEST)


def shown(value: Any) -> str:
    """A value and its type on one short line, for a message."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    if value is None or isinstance(value, bool):
        return repr(value)
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a representation is the caller's code, or an integer too long to print
        return f"a value of type {kind}"
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {kind}"


def exactly(query: Tensor) -> AbstractContextManager[Any]:
    """No autocast on the query's device: every operation in the types it is given. AttentionError: it is no tensor."""
    _check_plain("query", query)
    device = query.device.type
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _check_plain(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise AttentionError(f"{name} must be a tensor, got {shown(tensor)}")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise AttentionError(f"{name} must be a dense tensor, got a {_layout(tensor)} one")


def _layout(tensor: Tensor) -> str:
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise AttentionError(f"{name} is on {tensor.device}, the query on {device}: give all on one device")
