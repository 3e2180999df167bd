"""A small study whose runs take seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.definition import Study, load

BASE: dict[str, Any] = {
    "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 32, "max_length": 256, "vocab_size": None},
    "data": {
        "corpus": "synthetic",
        "task": "copy",
        "task_length": 16,
        "max_documents": 400,
        "tokenizer": {"kind": "char"},
    },
    "train": {
        "length": 16,
        "document_end": False,
        "batch_size": 8,
        "steps": 6,
        "warmup_steps": 1,
        "validate_every": 6,
        "checkpoint_every": 3,
        "validation_sequences": 8,
    },
}

FILE: dict[str, Any] = {
    "base": "base.yaml",
    "grid": {
        "attention": {"softmax": [], "softpick": ["model.attention=softpick"]},
    },
    "baseline": "softmax",
    "seeds": [1, 2],
    "analyses": ["sinks --lengths 16 --sequences 4"],
    "metrics": ["bits_per_byte", "sink_renormalised"],
    "claims": [
        {
            "name": "no-sinks",
            "says": "Softpick has fewer sinks than softmax.",
            "metric": "sink_renormalised",
            "contrast": ["softpick", "softmax"],
            "direction": "lower",
            "smallest": 0.01,
        }
    ],
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes the study with some entries changed; an entry of None is left out."""
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> Path:
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        content = {key: value for key, value in (FILE | changes).items() if value is not None}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "tiny.yaml"

    return write


@pytest.fixture
def study(write: Callable[..., Path]) -> Study:
    return load(write())
