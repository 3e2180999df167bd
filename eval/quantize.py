"""Loss after rounding the weights to 8, 4, 3 and 2 bits, against the model's own full precision.

Round-to-nearest, asymmetric, in groups of consecutive inputs of one output row (the last group of a row may be shorter). With `b` bits,
`step = (max - min) / (2^b - 1)` and `zero = round(-min / step)`, min and max taken over the group and 0, a weight becomes
`(clamp(round(w / step) + zero, 0, 2^b - 1) - zero) * step`. Every `nn.Linear` inside the blocks is rounded; embeddings, norms and the
output head are not. The network is restored bit for bit afterwards. Compare the deltas, not the losses: a model that starts worse ends worse.

Results:

    {
      "full_precision": {"loss": 1.83, "bits_per_byte": 1.21, "perplexity": 6.2},               loss in nats per token
      "bits": {
        "4": {"loss": ..., "bits_per_byte": ..., "perplexity": ...,
              "delta_loss": 0.02, "perplexity_ratio": 1.02,                                     against full_precision
              "weight_error": 0.08}                                                             ||W_q - W|| / ||W||, all rounded weights
      },
      "rounded": {"matrices": 24, "parameters": 786432, "share": 0.75}                          share of all parameters
    }
"""
