"""The forms on the GPU: one file each, found by its name, which is that of the form's file in `attention/forms/`.

Nothing is imported before a form is asked for, so that this folder can be looked at where Triton is missing.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from attention.kernels.triton.form import Form

HERE = Path(__file__).parent


def has(name: str) -> bool:
    """Whether there is a file for a form."""
    return (HERE / f"{name}.py").exists()


@cache
def load(name: str) -> Form:
    """The form of a file."""
    form: Form = import_module(f"{__name__}.{name}").FORM
    return form


def of(printed: ModuleType) -> Form:
    """The form of a printed module, as its constants have it."""
    form = load(printed.FORM)
    return form.steep if form.steep is not None and printed.CONSTANTS.steep else form
