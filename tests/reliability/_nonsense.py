"""What callers give by mistake, by argument."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention import Phase, RecurrentState

SCALARS: list[Any] = [
    math.nan,
    math.inf,
    "3",
    True,
    10**20,
    10**400,
    1j,
    [1],
    {},
    b"x",
    object(),
    torch.tensor(2),
    2.5,
]
SEED = torch.tensor(3)

ARGUMENTS: dict[str, list[Any]] = {
    "causal": [1, 0, None, "yes", torch.tensor(True), np.bool_(True), [True]],
    "window": [*SCALARS, 0, -1, -(10**30), np.int64(3), torch.tensor([1, 2])],
    "scale": [*SCALARS, -1.0, 1e39, 1e-320, np.float32(0.5), torch.tensor([1.0, 2.0])],
    "kernel": [*SCALARS, None, "", "AUTO", "cuda", ["cpu"]],
    "mechanism": [*SCALARS, None, "", "softmaxx", ["softmax"], dict, "x" * 5000, "a\nb"],
    "phase": [
        *SCALARS,
        None,
        Phase,
        Phase(1, 0.5, SEED),  # type: ignore[arg-type]
        Phase(True, 2.0, SEED),
        Phase(True, math.nan, SEED),
        Phase(True, "0.5", SEED),  # type: ignore[arg-type]
        Phase(True, 0.5, 3),  # type: ignore[arg-type]
        Phase(True, 0.5, torch.zeros(2, dtype=torch.long)),
        Phase(True, 0.5, torch.tensor(1.5)),
        Phase(True, 0.5, SEED.to("meta")),
        Phase(True, 0.5, SEED, -1),
        Phase(True, 0.5, SEED, 1.5),  # type: ignore[arg-type]
        Phase(True, 0.5, SEED, 10**20),
        Phase(True, 0.5, SEED, torch.tensor(1.5)),
    ],
    "state": [*SCALARS, RecurrentState, {"key": None}],
    "params": [
        *SCALARS,
        lambda name: {name: torch.zeros(7)},
        lambda name: {name: torch.zeros(())},
        lambda name: {name: torch.zeros(1)},
        lambda name: {name: torch.zeros(2, 2, 2, 2)},
        lambda name: {name: torch.zeros(4, dtype=torch.long)},
        lambda name: {name: torch.zeros(4, dtype=torch.cfloat)},
        lambda name: {name: None},
        lambda name: {name: [0.1] * 4},
        lambda name: {name: 1.0},
        lambda name: {name.upper(): torch.zeros(4)},
        lambda name: {3: torch.zeros(4)},
        lambda name: [(name, torch.zeros(4))],
    ],
}


def _nested(x: Tensor) -> Any:
    return torch.nested.nested_tensor([x[0], x[0][:1]], layout=torch.jagged)


_ANYTHING: list[Callable[[Tensor], Any]] = [
    lambda x: None,
    lambda x: 1.0,
    lambda x: "x",
    lambda x: x.tolist(),
    lambda x: x.float().numpy(),
    lambda x: x.to_sparse(),
    lambda x: x.bool(),
    lambda x: x.cfloat(),
    lambda x: x.to(torch.uint16) if not x.is_floating_point() else x.to(torch.float8_e4m3fn),
    lambda x: x.float() if not x.is_floating_point() else x.long(),
    lambda x: _nested(x),
]

TENSORS: dict[str, list[Callable[[Tensor], Any]]] = {
    "query": _ANYTHING,
    "key": _ANYTHING,
    "value": _ANYTHING,
    "documents": _ANYTHING,
}

_RESHAPED: list[Callable[[Tensor], Any]] = [
    lambda x: x[0],
    lambda x: x[None],
    lambda x: x[:, :0],
    lambda x: x[..., :-1],
    lambda x: torch.cat([x, x], 0),
    lambda x: torch.cat([x, x], 1),
    lambda x: torch.cat([x, x, x], -1),
    lambda x: x.flatten(),
    lambda x: x.sum(),
    lambda x: x.transpose(-1, -2),
    lambda x: x.double() if x.is_floating_point() else x[:, ::2],
]

SHAPES: dict[str, list[Callable[[Tensor], Any]]] = dict.fromkeys(TENSORS, _RESHAPED)

OPTIONS: list[Any] = [
    *SCALARS,
    None,
    -1,
    0,
    1,
    2,
    3,
    0.5,
    1.5,
    -1e300,
    1e300,
    1e-300,
    2**40,
    "none",
    "row",
    "one",
    "",
]
