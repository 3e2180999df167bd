"""The site, built once, and the folder in which a reader of a guide works."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels import borrowed_kernels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning of mkdocs, such as a dead link, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "ATTENTION_ZOO_CACHE": str(cache)}
    with borrowed_kernels(cache):
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the project's configs and a text of one's own, where commands are given."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path
