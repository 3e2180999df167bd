"""The site, built once, and the folder in which a reader of a guide works."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kernels import borrowed_kernels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the built site, one for all workers; a warning of mkdocs, such as a dead link, ends the build."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not (shared / "site.built").exists():
            _build(folder, shared / "site-cache")
            (shared / "site.built").touch()
    return folder


def _build(folder: Path, cache: Path) -> None:
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "ATTENTION_ZOO_CACHE": str(cache)}
    cache.mkdir(exist_ok=True)
    with borrowed_kernels(cache):
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert done.returncode == 0, "\n".join(warnings)[-5000:]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the project's configs and a text of one's own, where commands are given."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path
