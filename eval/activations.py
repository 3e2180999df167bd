"""Kurtosis of the residual stream and massive activations, layer by layer.

Kurtosis is Pearson's, `n sum (x - mean)^4 / (sum (x - mean)^2)^2`, 3 for a Gaussian, over the entries of the residual stream after each
block, accumulated in float64. An activation is massive (Sun et al., arXiv 2402.17762) when `|x| > 100` and `|x|` is at least 1000 times
the median magnitude of the hidden state (one sequence at one layer) it belongs to.

Results (`[L]` is a list with one number per block, the first block first):

    {
      "sequences": 32, "tokens": 8192,
      "kurtosis": {
        "pooled": 41.2,                    all blocks together
        "without_last": 30.9,              all blocks but the last (null for a model of one block)
        "layers": [L],
        "embeddings": 3.1,                 the residual stream before the first block
        "per_token": [L],                  mean over tokens of the kurtosis over the dimensions of one token
        "first_token": [L]                 the same for the first token of the window only, where massive activations live
      },
      "massive": {
        "top": [L][3],                     largest three |x|, averaged over sequences
        "median": [L],                     median |x|, averaged over sequences
        "ratio": [L],                      top-1 divided by median, both averaged
        "count": 12, "count_by_layer": [L] entries that qualify, over all sequences
      },
      "range": {"min": -31.0, "max": 44.1, "min_by_layer": [L], "max_by_layer": [L]}
    }
"""
