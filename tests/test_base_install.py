"""Optional means optional: what works with fewer packages, and what the rest says in one line."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
pytestmark = pytest.mark.slow

COMMANDS = (
    ["train.py"],
    ["-m", "models.generate"],
    ["-m", "attention"],
    ["-m", "attention.build"],
    ["-m", "attention.conformance"],
    ["-m", "data"],
    ["-m", "eval"],
    ["-m", "study"],
)

REFUSE = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""A sitecustomize.py: as if these packages were not installed."""


def needed(requirements: list[str]) -> set[str]:
    """The installed distributions that these bring with them, extras of the project included."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == "attention-zoo":
            waiting += [
                each for extra in extras.split(",") for each in PROJECT["optional-dependencies"][extra]
            ]
            continue
        name = name.lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A function that runs a command with what the project's dependencies and some of its extras bring, and no more."""

    def run(extras: list[str], *command: str) -> tuple[int, str, str]:
        wanted = [*PROJECT["dependencies"], *(f"attention-zoo[{extra}]" for extra in extras)]
        kept = needed(wanted) | {"pip", "setuptools"}
        hidden = {
            module
            for module, distributions in metadata.packages_distributions().items()
            if not any(name.lower().replace("_", "-") in kept for name in distributions)
        }
        # Setuptools, which torch needs, carries some packages with it.
        hidden -= {path.name for path in (Path(setuptools.__file__).parent / "_vendor").iterdir()}
        folder = tmp_path_factory.mktemp("site")
        (folder / "sitecustomize.py").write_text(REFUSE.format(names=hidden))
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_library_needs_its_own_dependencies_alone(python):
    code = (
        "import attention, torch; x = torch.randn(3, 1, 9, 2, 8)\nprint(attention.attend(*x, 'lssar').shape)"
    )
    assert python([], "-c", code) == (0, "torch.Size([1, 9, 2, 8])\n", "")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_extras_every_command_helps(python, command):
    status, printed, told = python([], *command, "--help")
    assert (status, told) == (0, "")
    assert command[-1] in printed


@pytest.mark.parametrize("command", [["train.py", "--keys"], ["-m", "data", "prepare"]], ids=" ".join)
def test_without_extras_a_command_of_the_study_says_in_one_line_what_to_install(python, command):
    status, _, told = python([], *command)
    assert status == 2
    assert re.fullmatch(r"error: .*not installed.*pip install .*\n", told), told


@pytest.mark.parametrize(
    ("command", "package"),
    [
        (["-m", "eval", "sinks", "shared-by-nobody/model-of-the-hub"], None),
        (["-m", "eval", "harness", "RUN"], "lm-eval"),
        (["-m", "eval", "report", "RUN"], "jinja2|matplotlib|scipy"),
        (["-m", "eval", "heatmaps", "RUN"], "matplotlib|jinja2"),
        (["-m", "data", "prepare", "path=TABLE"], "pyarrow"),
    ],
    ids=lambda value: value[2] if isinstance(value, list) else "",
)
def test_what_needs_another_extra_says_so_in_one_line(python, command, package, tiny_run, tmp_path):
    table = tmp_path / "text.parquet"
    table.write_bytes(b"PAR1")
    command = [part.replace("RUN", str(tiny_run)).replace("TABLE", str(table)) for part in command]
    status, _, told = python(["train"], *command)
    assert status == 2, told
    (line,) = told.splitlines()
    assert line.startswith("error: ")
    if package is not None:
        assert re.search(package, line), line
        assert "pip install" in line, line


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run of a model of a few thousand parameters."""
    out = tmp_path_factory.mktemp("runs")
    sizes = ["model.n_layer=1", "model.d_model=16", "model.n_head=2", "train.length=32", "train.steps=1"]
    more = [
        "train.warmup_steps=0",
        "train.batch_size=2",
        "train.validation_sequences=4",
        "train.tracker=none",
    ]
    command = [sys.executable, "train.py", "configs/demo/softmax.yaml", f"out={out}", *sizes, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "softmax"
