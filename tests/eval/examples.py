"""Runs of a report that nobody trained, with plausible results of most analyses, and a reader of its page."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from eval.heatmap_cells import pack
from eval.report.collection import Measured
from eval.report.contents import Report
from eval.report.page import render

PROTOCOL = {
    "settings": {"sequences": 8},
    "text": {"source": "a text", "documents": 1, "bytes": 1000, "sha256": "ab" * 32},
    "tokenizer": "cd" * 32,
    "dtype": "float32",
    "code": "0123",
}


def at_length(sink: float, zeros: float) -> dict:
    """What sinks finds in windows of one length: two layers of two heads."""
    heads = [[sink, sink / 2], [0.0, None]]
    rates = {"raw": {"0.3": sink}, "renormalised": {"0.3": sink / 2}}
    by_key = {"raw": {"0.3": [sink]}, "renormalised": {"0.3": [sink / 2]}}
    names = ("mass", "entropy", "entropy_normalised", "support", "zeros", "small", "empty_rows", "max_score")
    return {
        "protocol": {},
        "sequences": 8,
        "tokens": 256,
        "sink_rate": rates,
        "sink_rate_by_key": by_key,
        "sink_rate_any": rates,
        "published": {
            "gu": {"rate": {"0.3": sink}, "by_key": {"0.3": [sink]}},
            "softpick": {"rate": {"0.3": sink}},
        },
        "mass": {
            "mean": 0.9,
            "positions": [1, 2, 32],
            "mean_at": [1, 0.9, 0.8],
            "p5_at": [1, 0.8, 0.7],
            "p95_at": [1, 1, 1],
        },
        "entropy": {"nats": 1.5, "normalised": 0.5, "support": 4.0, "skipped_rows": 0.0},
        "sparsity": {"zeros": zeros, "small": zeros, "empty_rows": 0.0},
        "dead_heads": {"0.01": 0.0},
        "heads": {
            "sink_rate": {"raw": {"0.3": heads}, "renormalised": {"0.3": heads}},
            "importance": {"raw": heads, "renormalised": heads},
            **dict.fromkeys(names, heads),
            "dead_tokens": {"0.01": heads},
        },
    }


def residual_stream(kurtosis: float) -> dict:
    """What activations finds in two layers."""
    layers = [3.0, kurtosis]
    return {
        "definitions": {},
        "protocol": {},
        "sequences": 8,
        "tokens": 256,
        "kurtosis": {
            "pooled": kurtosis,
            "without_last": 3.0,
            "layers": layers,
            "embeddings": 3.0,
            "per_token": layers,
            "first_token": layers,
        },
        "massive": {
            "top": [[4, 3, 2], [kurtosis, 3, 2]],
            "median": [1.0, 1.0],
            "ratio": [4.0, kurtosis],
            "count": 0,
            "count_by_layer": [0, 0],
        },
        "largest": {"value": kurtosis * 2, "layer": 1, "sequence": 0, "token": 0, "dimension": 0},
        "range": {"min": -kurtosis * 2, "max": 8.0, "min_by_layer": [-1, -2], "max_by_layer": [7, 8]},
    }


def score(**known: object) -> dict:
    """A score of quantize."""
    level = {"loss": 3.0, "bits_per_byte": 1.5, "perplexity": 20.0, "delta_loss": 0.1, "interval": None}
    weights = {"weight_error": 0.1, "bits_per_weight": 4.5, "bytes": 1000}
    return {**level, "loss_ratio": 1.25, "perplexity_ratio": 1.9, **weights, **known}


def over_lengths(sink: float) -> dict:
    """What lengths finds at 1, 4 and 16 times 32 tokens."""
    curve = {"start": [1, 2, 3], "end": [1, 2, 4], "loss": [3.0, 2.5, 2.0 + sink], "tokens": [500, 500, 10]}
    known = {
        "windows": 4,
        "tokens": 1000,
        "loss": 2.0,
        "perplexity": 8.0,
        "loss_last": 2.0,
        "per_window": [2.0],
    }
    return {
        "train_length": 32,
        "lengths": {
            str(32 * m): {
                **known,
                "multiple": m,
                "bits_per_byte": 2 + sink * m,
                "by_document": {"0": 1 + 0.99 * sink * m, "5": 3 + 1.01 * sink * m},
                "loss_tail": 3.0,
                "curve": curve,
            }
            for m in (1, 4, 16)
        },
        "rescaled": {},
        "skipped": [],
    }


def task(chance: float | None = 0.5, **metrics: dict) -> dict:
    """A task of harness."""
    return {"version": 1, "samples": 50, "chance": chance, "sha256": None, "metrics": metrics}


def results(sink: float, kurtosis: float, zeros: float = 0.0) -> dict:
    """Plausible result files of most analyses: two layers of two heads."""
    rows = at_length(sink, zeros)
    bits = {
        str(b): score(loss_ratio=1 + sink / b**4, perplexity_ratio=1 + kurtosis / b**4, weight_error=1 / b**2)
        for b in (8, 4, 3, 2)
    }
    weights = np.array([[1.0, np.nan, np.nan], [0.25, 0.75, np.nan], [0.0, np.nan, sink]])
    known = {"residual": 1.5e-7, "zeros": zeros, "negative": 0.0, **pack(weights)}
    panels = [{"head": head, **known} for head in (0, 1)]
    full = {"loss": 3.0, "bits_per_byte": 1.5, "perplexity": 20.0, "bytes": 5000}
    acc = {"value": 0.5 + sink / 8, "stderr": 0.021, "higher_is_better": True}
    found = {
        "sinks": {"definitions": {}, "lengths": {"16": rows, "32": rows}, "skipped": []},
        "activations": residual_stream(kurtosis),
        "quantize": {
            "full_precision": full,
            "rounded": {"matrices": 4, "parameters": 1000, "share": 0.5},
            "bits": bits,
        },
        "lengths": over_lengths(sink),
        "harness": {
            "tasks": {"order": task(acc=acc)},
            "headline": {"order": "acc"},
            "merged": 0,
            "skipped": {},
        },
        "heatmaps": {
            "prompt": "To be",
            "pieces": ["<s>", "To", " be"],
            "pool": 1,
            "layers": [
                {"layer": layer, "mechanism": "softmax", "window": None, "heads": panels} for layer in (0, 1)
            ],
        },
    }
    return {
        name: {
            "analysis": name,
            "subject": {
                "name": "x",
                "label": "softmax",
                "checkpoint": "f" * 64,
                "architecture": "a" * 16,
                "step": 20,
            },
            "protocol": PROTOCOL | ({"residual_limit": 1e-3} if name == "heatmaps" else {}),
            "results": found[name],
        }
        for name in found
    }


def run(name: str, label: str, bits: float, sink: float = 0.4, **changes: object) -> Measured:
    """A run of twenty steps with every analysis."""
    log = [
        {"step": 0, "validation_loss": 6.9, "bits_per_byte": bits + 2},
        {"step": 10, "loss": 4.0, "tokens": 5120, "tokens_per_second": 910.0},
        {"step": 20, "loss": 3.0, "tokens": 10240, "tokens_per_second": 920.0},
        {"step": 20, "validation_loss": 3.1, "bits_per_byte": bits},
    ]
    made = Measured(
        name=name,
        label=label,
        path=f"runs/{name}",
        step=20,
        checkpoint="f" * 64,
        train_length=32,
        parameters=1_234_567,
        results=results(sink, 10 * bits, zeros=0.25 if label == "softpick" else 0.0),
        missing={},
        metrics=log,
        config={"name": name, "seed": 1, "model": {"attention": label, "n_layer": 2}},
        record={
            "data": "da" * 32,
            "tokenizer": "cd" * 32,
            "command": ["train.py", "x.yaml"],
            "versions": {"torch": "2.13"},
        },
    )
    return replace(made, **changes)


def without(measured: Measured, name: str) -> Measured:
    kept = {kind: result for kind, result in measured.results.items() if kind != name}
    return replace(measured, results=kept, missing={name: "not measured"})


def three_runs() -> list[Measured]:
    return [
        run("base", "softmax", 1.5),
        run("pick", "softpick", 1.4567, sink=0.04),
        run("long", "softmax*1,swat*3", 1.61, sink=0.2),
    ]


def page_of(runs: list[Measured], title: str = "A report") -> str:
    return render(Report(title, runs, {"python": "3.11", "commit": "abc"}))


class Reader(HTMLParser):
    """Collects the tags of a page, and the text of the cells of each table row."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]
