"""Time and memory of mechanisms, kernels and training steps; each module runs as `python -m benchmarks.NAME`."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for a command: say in one line what is not installed
    import command  # noqa: F401
