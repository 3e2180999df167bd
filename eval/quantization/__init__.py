"""Ways to compute with fewer bits, each in a module of its own; `eval.analyses.quantize` measures what they cost.

    rounding       weights to the nearest point of a grid
    hqq            weights on grids whose zeros the `hqq` library fits
    gptq           weights rounded one input at a time, the others making up for the error
    activations    what linear layers multiply, 8 bits times 8 bits
    cache          the keys and values that attention reads
    probabilities  the weights of attention, with and without bias correction
    search         bits per matrix under a budget

All but the packed checkpoints of `python -m eval.quantization` is computed in floating point on numbers that lie on
integer grids: the error of quantization without its speed.
"""
