"""The code of these models as a flat folder that transformers can load: the very files, their imports made relative.

transformers copies a file of code and what it imports by `from .NAME import ...`, side by side; it knows no packages.
So `models/mlps/gelu.py` becomes `models_mlps_gelu.py`, and where a package lists its own folder the export says what
was found there. Nothing else is changed.
"""

import ast
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path

import attention
from common.listing import classes
from models.huggingface.configuration import CODE

PACKAGES = ("models", "common")
"""What is copied; `attention` is a library, which is installed."""

CLASSES = {
    "models.huggingface.configuration": CODE["AutoConfig"].partition(".")[0],
    "models.huggingface.modeling": CODE["AutoModelForCausalLM"].partition(".")[0],
}
"""The files that transformers asks for, by the name of the module that each is a copy of."""


def write_code(folder: str | Path) -> list[Path]:
    """Write the modelling code into a folder; returns the files."""
    written = []
    for name, source in flattened().items():
        path = Path(folder) / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        written.append(path)
    return written


@cache
def flattened() -> dict[str, str]:
    """The source of every module that the model needs, by its name in a flat folder."""
    sources: dict[str, str] = {}
    waiting = list(CLASSES)
    while waiting:
        module = waiting.pop()
        if _flat(module) not in sources:
            sources[_flat(module)], needed = _relative(module)
            waiting += needed
    return dict(sorted(sources.items()))


def _flat(module: str) -> str:
    return CLASSES.get(module, module.replace(".", "_"))


def _relative(module: str) -> tuple[str, list[str]]:
    """The source of a module with relative imports, and the modules that it needs.

    Raises:
        ValueError: it imports a module, not names of one.
    """
    file = Path(str(importlib.import_module(module).__file__))
    source = file.read_text(encoding="utf-8")
    imports, listed = [], ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += _imported(node, file)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "classes":
            found = _listing(node, module)
            entries = ", ".join(f'"{name}": {each.__name__}' for name, each in found.items())
            source = source.replace(str(ast.get_source_segment(source, node)), f"{{{entries}}}", 1)
            listed = "".join(f"from {each.__module__} import {each.__name__}\n" for each in found.values())
            imports += [each.__module__ for each in found.values()]
    # Behind the import of their base, which such a package has.
    source = re.sub(
        rf"^(from {re.escape(module)}\.base import .*\n)", rf"\1{listed}", source, flags=re.MULTILINE
    )
    for name in set(imports):
        source = re.sub(
            rf"^( *)from {re.escape(name)} import",
            rf"\1from .{_flat(name)} import",
            source,
            flags=re.MULTILINE,
        )
    origin = file.relative_to(Path(__file__).parents[2])
    head = f"# {origin} of Attention Zoo {attention.__version__} (Apache-2.0), its imports made relative.\n"
    return head + source, imports


def _imported(node: ast.Import | ast.ImportFrom, file: Path) -> list[str]:
    """The modules of this project that a statement imports names from."""
    if isinstance(node, ast.ImportFrom):
        module = str(node.module)
        modules = [name.name for name in node.names if _is_module(module, name.name)]
    else:
        module, modules = "", [name.name for name in node.names]
    if wrong := [
        f"{module}.{name}".lstrip(".") for name in modules if (module or name).partition(".")[0] in PACKAGES
    ]:
        raise ValueError(f"{file}: import names from {wrong[0]}, not the module")
    return [module] if module.partition(".")[0] in PACKAGES else []


def _is_module(package: str, name: str) -> bool:
    if package.partition(".")[0] not in PACKAGES:
        return False
    inside = getattr(importlib.import_module(package), "__path__", None)
    return inside is not None and importlib.util.find_spec(f"{package}.{name}") is not None


def _listing(call: ast.Call, module: str) -> dict[str, type]:
    """The classes that `classes(__name__, BASE, without={...})` finds in a package, by name."""
    base = getattr(importlib.import_module(module), ast.unparse(call.args[1]))
    return classes(module, base, **{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})
