"""A mechanism's pointwise functions as data, so that kernels in other languages can be written from them.

The methods of a mechanism (`weight`, `terms`, `first`, ...) are called once with symbols in place of tensors. What
comes back is a short list of elementary operations per function, which the C++ and Triton kernels print in their own
language. A formula is therefore stated in one place, in PyTorch, whatever runs it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import fx

from attention.core.errors import AttentionError
from attention.core.form import rowwise
from attention.core.mechanism import Mechanism

UNARY = ("neg", "abs", "exp", "expm1", "log", "log1p", "sigmoid", "softplus", "sqrt", "tanh")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "copysign")
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")
LOGICAL = ("logical_and", "logical_or", "logical_not")
PRIMITIVES = (*UNARY, *BINARY, *COMPARISONS, *LOGICAL, "where", "power")
"""Operations a printer must know. `power` has a constant exponent; comparisons and logical operations give masks,
`where` takes a mask first; all else takes and gives numbers."""

MASKS = (*COMPARISONS, *LOGICAL)

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
INFIX |= {"eq": "==", "ne": "!=", "logical_and": "&", "logical_or": "|"}
PREFIX = {"neg": "-", "logical_not": "~"}
"""Some of them in languages of C's family."""

Operand = int | float
"""An int is the place of an earlier value (arguments first, then steps), a float is a constant."""


class UntraceableError(AttentionError):
    """A function that is not made of known elementary operations."""


class Exact:
    """Equal where it reads the same: to Python the place 4 and the constant 4.0 are equal, here they are not."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True, eq=False)
class Step(Exact):
    """One elementary operation."""

    operation: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True, eq=False)
class Function(Exact):
    """A pointwise function: its arguments, what it computes from them, and which values it returns."""

    name: str
    arguments: tuple[str, ...]
    steps: tuple[Step, ...]
    results: tuple[Operand, ...]

    def is_mask(self, operand: Operand) -> bool:
        """Whether a value is a mask and not a number."""
        place = operand - len(self.arguments) if isinstance(operand, int) else -1
        return place >= 0 and self.steps[int(place)].operation in MASKS


@dataclass(frozen=True)
class Formula:
    """The pointwise functions of a mechanism.

    Attributes:
        mechanism: its registry name.
        form: the name of the form's file.
        functions: in the order in which the form lists them.
        constants: what else compiled kernels must know, by name.
    """

    mechanism: str
    form: str
    functions: tuple[Function, ...]
    constants: tuple[tuple[str, bool | float], ...]

    def __getitem__(self, name: str) -> Function:
        """A function by its name."""
        return next(function for function in self.functions if function.name == name)

    def constant(self, name: str) -> bool | float:
        """A constant by its name."""
        return dict(self.constants)[name]

    @cached_property
    def key(self) -> str:
        """A name that no other formula has."""
        return f"{self.mechanism}-{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"


@cache
def formula_of(mechanism: Mechanism) -> Formula:
    """Trace a mechanism's functions.

    Raises:
        UntraceableError: the form has no pointwise functions, or a function uses an operation that is not known; the
            message says which.
    """
    found = rowwise(mechanism)
    if found is None:
        raise UntraceableError(f"form {mechanism.form.__name__} has no pointwise functions")
    mechanism, form = found
    functions = tuple(
        _trace(name, arguments, getattr(mechanism, name)) for name, arguments in form.traced.items()
    )
    return Formula(
        mechanism.name,
        form.__module__.rpartition(".")[2],
        functions,
        tuple(form.constants(mechanism).items()),
    )


@torch.compiler.assume_constant_result
def untraceable(mechanism: Mechanism) -> str | None:
    """Say why a mechanism has no formula, None if it has one; a constant to torch.compile."""
    try:
        formula_of(mechanism)
    except UntraceableError as error:
        return str(error)
    return None


def _trace(name: str, arguments: tuple[str, ...], method: Callable[..., Any]) -> Function:
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    symbols = [fx.Proxy(graph.placeholder(argument), tracer) for argument in arguments]
    try:
        returned = method(*symbols)
    except (fx.proxy.TraceError, TypeError) as error:
        raise UntraceableError(f"{name} is more than arithmetic on its arguments ({error})") from error
    return _Lowering(name, arguments, graph).function(
        returned if isinstance(returned, tuple) else (returned,)
    )


class _Lowering:
    """Elementary steps from a traced graph, each distinct one once."""

    def __init__(self, name: str, arguments: tuple[str, ...], graph: fx.Graph):
        self.name, self.arguments = name, arguments
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Operand] = {}
        overwritten: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = len(self.values)
                continue
            stale = overwritten.intersection(node.all_input_nodes)
            if stale:
                raise UntraceableError(f"{name} uses {stale.pop()} after overwriting it in place")
            self.values[node] = self._lower(node)
            if node.op == "call_method" and node.target.endswith("_"):
                overwritten.add(node.args[0])

    def function(self, returned: tuple[Any, ...]) -> Function:
        results = tuple(self._operand(x.node if isinstance(x, fx.Proxy) else x) for x in returned)
        return Function(self.name, self.arguments, tuple(self.steps), results)

    def emit(self, operation: str, *operands: Operand) -> int:
        step = Step(operation, operands)
        if step not in self.steps:
            self.steps.append(step)
        return len(self.arguments) + self.steps.index(step)

    def number(self, operand: Operand) -> Operand:
        """A mask as 0 and 1."""
        return self.emit("where", operand, 1.0, 0.0) if self._is_mask(operand) else operand

    def _is_mask(self, operand: Operand) -> bool:
        place = operand - len(self.arguments) if isinstance(operand, int) else -1
        return place >= 0 and self.steps[int(place)].operation in MASKS

    def _lower(self, node: fx.Node) -> Operand:
        target = node.target if isinstance(node.target, str) else node.target.__name__
        operation = _ALIASES.get(target.strip("_"), target.strip("_"))
        operands = [self._operand(x) for x in node.args]
        keywords = {key: x if x is None else self._operand(x) for key, x in node.kwargs.items()}
        if operation in _DERIVED:
            try:
                return _DERIVED[operation](self, *operands, **keywords)
            except TypeError as error:
                raise UntraceableError(
                    f"{self.name} calls {operation} with arguments that no kernel knows"
                ) from error
        if operation not in PRIMITIVES or keywords:
            raise UntraceableError(
                f"{self.name} uses {target}, which is not among the operations kernels know"
            )
        if operation not in (*LOGICAL, "where"):
            operands = [self.number(x) for x in operands]
        return self.emit(operation, *operands)

    def _operand(self, value: Any) -> Operand:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            return float(value)
        if isinstance(value, (bool, int, float)):
            return float(value)
        raise UntraceableError(
            f"{self.name} uses {value!r}, which is neither a number nor computed from its arguments"
        )


def _sign(lower: _Lowering, x: Operand) -> Operand:
    negative = lower.emit("where", lower.emit("lt", x, 0.0), -1.0, 0.0)
    return lower.emit("where", lower.emit("gt", x, 0.0), 1.0, negative)


def _clamp(lower: _Lowering, x: Operand, min: Operand | None = None, max: Operand | None = None) -> Operand:
    above = x if min is None else lower.emit("maximum", x, min)
    return above if max is None else lower.emit("minimum", above, max)


def _power(lower: _Lowering, x: Operand, exponent: Operand) -> Operand:
    if not isinstance(exponent, float):
        raise UntraceableError(f"{lower.name} raises to a power that is not constant")
    if exponent in (0.0, 1.0):
        return 1.0 if exponent == 0.0 else x
    return lower.emit("power", x, exponent)


def _where_method(lower: _Lowering, x: Operand, condition: Operand, other: Operand) -> Operand:
    return lower.emit("where", condition, lower.number(x), lower.number(other))


def _where(lower: _Lowering, a: Operand, b: Operand, c: Operand) -> Operand:
    """torch.where has the mask first, Tensor.where second."""
    if lower._is_mask(a):
        return lower.emit("where", a, lower.number(b), lower.number(c))
    return _where_method(lower, a, b, c)


_DERIVED: dict[str, Callable[..., Operand]] = {
    "relu": lambda lower, x: lower.emit("maximum", x, 0.0),
    "square": lambda lower, x: lower.emit("mul", x, x),
    "reciprocal": lambda lower, x: lower.emit("div", 1.0, x),
    "rsqrt": lambda lower, x: lower.emit("div", 1.0, lower.emit("sqrt", x)),
    "logsigmoid": lambda lower, x: lower.emit("neg", lower.emit("softplus", lower.emit("neg", x))),
    "silu": lambda lower, x: lower.emit("mul", x, lower.emit("sigmoid", x)),
    "softsign": lambda lower, x: lower.emit("div", x, lower.emit("add", lower.emit("abs", x), 1.0)),
    "sign": _sign,
    "clamp": _clamp,
    "clamp_min": lambda lower, x, min: _clamp(lower, x, min=min),
    "clamp_max": lambda lower, x, max: _clamp(lower, x, max=max),
    "pow": _power,
    "where": _where,
    "float": lambda lower, x: lower.number(x),
    "double": lambda lower, x: lower.number(x),
    "to": lambda lower, x, kind: lower.number(x),
}

_ALIASES = {
    "truediv": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "absolute": "abs",
    "greater": "gt",
    "less": "lt",
    "and": "logical_and",
    "or": "logical_or",
    "invert": "logical_not",
    "max": "maximum",
    "min": "minimum",
}


def evaluate(function: Function, *arguments: Any) -> tuple[Any, ...]:
    """A traced function on tensors: what the printers' output must equal."""
    values: list[Any] = list(arguments)
    for step in function.steps:
        operands = [values[x] if isinstance(x, int) else x for x in step.operands]
        values.append(_EVALUATE[step.operation](*operands))
    return tuple(
        values[x] if isinstance(x, int) else torch.tensor(x, dtype=torch.float64) for x in function.results
    )


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    # A constant in float64, which takes part in whatever precision the tensors have.
    return lambda *operands: function(
        *(torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x for x in operands)
    )


_EVALUATE: dict[str, Callable[..., Any]] = {
    **{name: _numbers(getattr(torch, name)) for name in (*UNARY, *BINARY, *MASKS) if name != "softplus"},
    "softplus": torch.nn.functional.softplus,
    "where": torch.where,
    "power": torch.pow,
}
