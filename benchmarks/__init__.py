"""Time and memory of mechanisms and kernels; each module runs as `python -m benchmarks.NAME`."""
