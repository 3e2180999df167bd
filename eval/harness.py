"""The lm-eval harness: offline tasks made from held-out text, or any stock task by name.

Needs the optional dependency lm-eval. The offline tasks are files in `tasks/`; they are built from the held-out text of the run (so a
comparison between runs is fair when they share a data configuration) by fixed seeds, and download nothing. `--tasks` names others from lm-eval
itself, which needs the network.

Results:

    {
      "tasks": {
        "cloze": {"version": 1, "samples": 200, "chance": null, "sha256": "<of the documents, offline tasks only>",
                  "metrics": {"acc": {"value": 0.31, "stderr": 0.03, "higher_is_better": true},
                              "perplexity": {"value": 812.0, "stderr": null, "higher_is_better": false}}},
        "continuation": {... "chance": 0.25, "metrics": {"acc": ..., "acc_norm": ...}},
        "order":        {... "chance": 0.5,  "metrics": {"acc": ..., "acc_norm": ...}},
        "rolling":      {... "metrics": {"bits_per_byte": ..., "byte_perplexity": ..., "word_perplexity": ...}}
      },
      "headline": {"cloze": "acc", "continuation": "acc_norm", "order": "acc", "rolling": "bits_per_byte"}
    }
"""
