"""The worked example of the documentation: one file, and the new mechanism trains, evaluates and is tested."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TINY = [
    "model.n_layer=2",
    "model.d_model=32",
    "model.n_head=2",
    "train.length=32",
    "train.steps=4",
    "train.warmup_steps=1",
    "train.batch_size=4",
    "train.validation_sequences=8",
    "train.tracker=none",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the example's file added, and nothing else touched."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("attention", "common", "models", "data", "storage", "training", "eval", "configs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    text = (ROOT / "docs" / "add-a-mechanism.md").read_text()
    path, code = re.search(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL).groups()
    (copy / path).write_text(code)
    return copy


def _run(project: Path, *command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_it_is_listed(project):
    assert "(1 + softsign(s)) / Σ (1 + softsign(s))" in _run(project, "-m", "attention")
    assert "- **Option** `epsilon`, 1e-08 by default" in _run(project, "-m", "attention", "show", "softsign")


def test_the_conformance_suite_picks_it_up(project):
    printed = _run(
        project, "-m", "pytest", "tests/attention/test_conformance.py", "-k", "Softsign", "-p", "no:xdist"
    )
    assert int(re.search(r"(\d+) passed", printed)[1]) > 20


def test_it_trains_and_is_evaluated(project):
    _run(project, "train.py", "configs/micro-softmax.yaml", "name=new", "model.attention=softsign", *TINY)
    _run(project, "-m", "eval", "sinks", "runs/new", "--sequences", "4", "--lengths", "16")
    results = json.loads((project / "runs/new/eval/sinks.json").read_text())
    assert results["protocol"]
    assert results["results"]
