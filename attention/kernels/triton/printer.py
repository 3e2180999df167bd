"""A formula's functions in Triton's language, as a module on disk.

Triton compiles functions from their source text, so that the printed functions must stand in a file. Files are named
by their contents and never change once written.
"""

import hashlib
import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from attention.core.cache import cache_directory, open_folder
from attention.core.errors import AttentionError
from attention.core.formula import INFIX, PREFIX, Formula, Function, Operand, Step

BUILTIN = {"abs": "tl.abs", "exp": "tl.exp", "sqrt": "tl.sqrt", "where": "tl.where"}
"""All other operations are functions of `maths`."""

HEADER = '''"""Pointwise functions of {mechanism} ({form}), printed from its traced formula."""

from collections import namedtuple

import triton
import triton.language as tl
{imports}'''


def module_name(formula: Formula) -> str:
    """Print a formula to its module, unless that is there as it should be, and return the module's name.

    Raises:
        AttentionError: the module cannot be kept, or others could change it.
    """
    source = source_of(formula)
    name = f"{formula.key}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    path = _path(name)
    try:
        open_folder(path.parent)
        if not (path.exists() and path.read_text(encoding="utf-8", errors="replace") == source):
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
                file.write(source)
            os.replace(file.name, path)
    except OSError as error:
        reason = error.strerror or error
        raise AttentionError(f"cannot keep Triton's functions in {path.parent}: {reason}") from error
    return name


@cache
def load(name: str) -> ModuleType:
    """Import a printed module.

    It holds FORM, the form's name, and two named tuples: CONSTANTS, and FUNCTIONS, which are jitted.
    """
    spec = importlib.util.spec_from_file_location(f"attention_zoo_{name.replace('-', '_')}", _path(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(name: str) -> Path:
    return cache_directory() / "triton" / f"{name}.py"


def source_of(formula: Formula) -> str:
    """The module's text."""
    constants = ", ".join(f"{name}={_constant(value)}" for name, value in formula.constants)
    functions = [_function(function) for function in formula.functions]
    given = ", ".join(f"{function.name}={function.name}" for function in formula.functions)
    known = [
        f"FORM = {formula.form!r}",
        f"CONSTANTS = namedtuple('Constants', {[name for name, _ in formula.constants]})({constants})",
    ]
    named = f"namedtuple('Functions', {[function.name for function in formula.functions]})"
    steps = [step for function in formula.functions for step in function.steps]
    used = {step.operation for step in steps if not _is_whole_power(step)}
    helpers = ", ".join(sorted(used - {*INFIX, *PREFIX, *BUILTIN}))
    imports = f"\nfrom attention.kernels.triton.maths import {helpers}\n" if helpers else ""
    header = HEADER.format(mechanism=formula.mechanism, form=formula.form, imports=imports)
    return "\n\n".join([header, "\n".join(known), *functions, f"FUNCTIONS = {named}({given})\n"])


def _function(function: Function) -> str:
    names = [*function.arguments, *(f"value_{place}" for place in range(len(function.steps)))]

    def show(operand: Operand) -> str:
        return names[operand] if isinstance(operand, int) else _number(operand)

    lines = ["@triton.jit", f"def {function.name}({', '.join(function.arguments)}):"]
    for name, step in zip(names[len(function.arguments) :], function.steps, strict=True):
        if _is_whole_power(step):
            lines += _whole_power(name, show(step.operands[0]), int(step.operands[1]))
        else:
            lines.append(f"    {name} = {_call(step.operation, [show(x) for x in step.operands])}")
    lines.append(f"    return {', '.join(show(x) for x in function.results)}")
    return "\n".join(lines) + "\n"


def _call(operation: str, operands: list[str]) -> str:
    if operation in INFIX:
        return f"{operands[0]} {INFIX[operation]} {operands[1]}"
    if operation in PREFIX:
        return f"{PREFIX[operation]}{operands[0]}"
    return f"{BUILTIN.get(operation, operation)}({', '.join(operands)})"


def _is_whole_power(step: Step) -> bool:
    return step.operation == "power" and float(step.operands[1]).is_integer()


def _whole_power(name: str, base: str, exponent: int) -> list[str]:
    """Squarings and multiplications, one per binary digit of the exponent."""
    lines = [f"    {name} = {base}"]
    for digit in f"{abs(exponent):b}"[1:]:
        lines.append(f"    {name} = {name} * {name}")
        if digit == "1":
            lines.append(f"    {name} = {name} * {base}")
    return lines if exponent > 0 else [*lines, f"    {name} = 1.0 / {name}"]


def _constant(value: bool | float) -> str:
    return repr(value) if isinstance(value, bool) else _number(value)


def _number(value: float) -> str:
    return repr(value) if abs(value) < float("inf") else f'float("{value}")'
