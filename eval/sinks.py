"""Attention sinks, mass, entropy, sparsity and dead heads, from streamed row statistics.

With W the attention weights of one head over a window of T tokens, the importance of key k is the mean weight it gets from the
rows that can see it, `alpha_k = sum_i W_ik / #{i : i sees k}` (Gu et al., arXiv 2410.10781; k = 1 is the first token). The sink rate is
the share of (sequence, layer, head) with `alpha_k > epsilon`. Both versions are reported: *raw* weights, and *renormalised* rows
`W_ij / (sum_j W_ij + 1e-8)`, without which a mechanism whose rows do not sum to one (softpick, SWAT) has no sinks by definition.

All numbers come from `attention.row_stats`; no T x T matrix is formed. They do not depend on the batch size.

Results (shares are in [0, 1], `[L][H]` is a list per layer of a list per head, keys of dicts are strings):

    {
      "lengths": {
        "64": {                                                  one entry per T that could be measured
          "sequences": 128, "tokens": 8192,
          "sink_rate":        {"raw": {"0.2": 0.41, "0.3": 0.33}, "renormalised": {"0.2": ..., "0.3": ...}},        key 1
          "sink_rate_by_key": {"raw": {"0.2": [10 shares], "0.3": [...]}, "renormalised": {...}},                   keys 1..10
          "mass":     {"mean": 0.98, "positions": [1, 2, 4, ..., 64], "mean_at": [...], "p5_at": [...], "p95_at": [...]},
          "entropy":  {"nats": 2.1, "normalised": 0.61, "support": 9.3, "skipped_rows": 0.0},
          "sparsity": {"zeros": 0.0, "small": 0.02, "empty_rows": 0.0},
          "dead_heads": {"1e-06": 0.0, "0.01": 0.02},
          "heads": {
            "sink_rate":  {"raw": {"0.2": [L][H], "0.3": [L][H]}, "renormalised": {...}},                           key 1
            "importance": {"raw": [L][H], "renormalised": [L][H]},                                   mean alpha_1
            "mass": [L][H], "entropy": [L][H], "entropy_normalised": [L][H], "support": [L][H],
            "zeros": [L][H], "small": [L][H], "empty_rows": [L][H], "max_score": [L][H],
            "dead_tokens": {"1e-06": [L][H], "0.01": [L][H]}           share of tokens with max |head output| < epsilon
          }
        }
      },
      "skipped": [{"length": 512, "reason": "..."}]
    }

`entropy.nats` is the mean of `-sum p ln p` with `p = W / sum W` over rows with mass of at least 1e-8 (`skipped_rows` is the share of the
others); `normalised` divides by the log of the number of visible keys, over rows that see more than one; `support` is
the mean of `exp(entropy)`. `zeros` and `small` are shares of the visible (query, key) pairs that are exactly zero, or at most 1e-5 in
magnitude. A row is empty when its mass is 0. A head is dead at epsilon when at least 95 % of its tokens have `max |output| < epsilon`.
An entry of `heads` is `null` where it has no row to average.
"""
