"""Time and memory of mechanisms, kernels and training steps; each module runs as `python -m benchmarks.NAME`."""
