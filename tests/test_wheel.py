"""What `pip install` brings: one top-level name, and a library that works without the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attention

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

CODE = """
import attention, torch
query, key, value = torch.randn(3, 1, 9, 2, 8)
print(attention.attend(query, key, value, "softpick", kernel="tiled").shape, attention.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network from a copy of the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (
        "attention",
        "common",
        "data",
        "models",
        "storage",
        "training",
        "eval",
        "study",
        "benchmarks",
        "configs",
    ):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "wheel", *options, "-w", "dist", "."], copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_library_is_all_that_is_installed(wheel):
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"attention"}


def test_it_attends_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{CODE}"
    printed = run([sys.executable, "-c", code], empty)
    assert printed.startswith("torch.Size([1, 9, 2, 8])")
    assert str(site) in printed


def test_all_that_a_file_of_the_library_reads_is_in_it(wheel):
    kept = {".py", ".cpp", ".h", ".pt", ".typed"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "attention").rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert {Path(name).suffix or Path(name).name for name in sources} <= kept | {"py.typed"}
    assert sources <= set(zipfile.ZipFile(wheel).namelist())


def test_its_version_is_that_of_the_library(wheel):
    assert wheel.name.split("-")[1] == attention.__version__
