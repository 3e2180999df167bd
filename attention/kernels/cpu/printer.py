"""A mechanism's traced functions as C++, for the class of its form in `forms/`."""

from attention.core.formula import INFIX, PREFIX, Formula, Function, Operand, Step


def source(formula: Formula) -> str:
    """A translation unit that exports the table of row functions of one mechanism."""
    functions = "\n".join(_function(function) for function in formula.functions)
    return f"""#include "compiled.h"
#include "forms/{formula.form}.h"

// Unnamed, since libraries of other mechanisms hold functions of the same names.
namespace {{

struct Pair {{
  vec first, second;
}};
struct Four {{
  vec first, second, third, fourth;
}};

struct Functions {{
{_constants(formula)}
{functions}
}};

}}  // namespace

extern "C" const Mechanism* mechanism() {{ return Compiled<{_class(formula.form)}<Functions>>::table(); }}
"""


def _class(form: str) -> str:
    """The class of a form's header: TwoStage of two_stage."""
    return form.title().replace("_", "")


def _constants(formula: Formula) -> str:
    constants: dict[str, bool | float] = dict(formula.constants)
    # Whether a function's results are all the same, so that what multiplies them need be computed once.
    constants |= {
        f"one_{function.name}": len(set(function.results)) == 1
        for function in formula.functions
        if len(function.results) > 1
    }
    return "\n".join(f"  static constexpr {_constant(name, value)};" for name, value in constants.items())


def _constant(name: str, value: bool | float) -> str:
    return (
        f"bool {name} = {str(value).lower()}"
        if isinstance(value, bool)
        else f"float {name} = {_number(value)}"
    )


def _function(function: Function) -> str:
    arguments = ", ".join(f"vec {name}" for name in function.arguments)
    names: list[str] = list(function.arguments)
    lines = []
    for step in function.steps:
        name = f"x{len(names)}"
        kind = "ivec" if function.is_mask(len(names)) else "vec"
        lines.append(f"    {kind} {name} = {_expression(step, names)};")
        names.append(name)
    results = [_vector(result, names) for result in function.results]
    body = "\n".join(lines)
    value = results[0] if len(results) == 1 else f"{{{', '.join(results)}}}"
    returned = {1: "vec", 2: "Pair", 4: "Four"}[len(results)]
    return f"  static inline {returned} {function.name}({arguments}) {{\n{body}\n    return {value};\n  }}"


def _expression(step: Step, names: list[str]) -> str:
    operation, operands = step.operation, step.operands
    if operation == "power":
        return _power(_vector(operands[0], names), float(operands[1]))
    vectors = [_vector(x, names) for x in operands]
    if operation in INFIX:
        return f"{vectors[0]} {INFIX[operation]} {vectors[1]}"
    if operation in PREFIX:
        return f"{PREFIX[operation]}{vectors[0]}"
    return f"{operation}({', '.join(vectors)})"


def _power(base: str, exponent: float) -> str:
    if exponent.is_integer() and 1 <= abs(exponent) <= 64:
        whole = f"whole_power<{int(abs(exponent))}>({base})"
        return whole if exponent > 0 else f"1.f / {whole}"
    return f"power({base}, {_number(exponent)})"


def _vector(operand: Operand, names: list[str]) -> str:
    return names[operand] if isinstance(operand, int) else f"broadcast({_number(operand)})"


def _number(value: float) -> str:
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!r}f" if "." in repr(value) or "e" in repr(value) else f"{value!r}.f"
