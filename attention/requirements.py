"""Says in one line what is not installed, while `python -m` looks for a command; an import raises as usual."""

import sys
from importlib.util import find_spec

REQUIRED = ("torch", "einops")

if sys.argv[:1] == ["-m"] and (missing := [package for package in REQUIRED if find_spec(package) is None]):
    print(
        f"error: {', '.join(missing)} not installed for {sys.executable}: pip install {' '.join(missing)}, or "
        "`make install` in a checkout of the project, then `. .venv/bin/activate`",
        file=sys.stderr,
    )
    sys.exit(2)
