"""Loss at 1 to 16 times the training length on the same tokens, and by position.

The held-out text is cut into segments of the longest length; for a length T each segment is cut again into windows of T tokens, each
behind its own beginning-of-sequence token, so that every length scores exactly the same tokens and only the context differs. No rescaling
of positions is applied.

Results (loss in nats per token):

    {
      "train_length": 256,
      "lengths": {
        "256":  {"multiple": 1, "windows": 128, "tokens": 32768, "loss": 1.84, "bits_per_byte": 1.22, "perplexity": 6.3,
                 "loss_last": 1.84,                     the last train_length tokens of each window only
                 "curve": {"start": [1, 2, 3, 5, ...], "end": [1, 2, 4, 8, ..., 256], "loss": [...], "tokens": [...]}},
        "512":  {...}
      },
      "skipped": [{"length": 4096, "multiple": 16, "reason": "..."}]
    }

A bin of the curve covers the predicted positions start..end of a window, both included, counted from 1; the bins double, and
position 1 is predicted from the beginning-of-sequence token alone.
"""
