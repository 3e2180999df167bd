"""The guides: every command that a page shows is one that its program takes, and examples in Python run."""

import re
from pathlib import Path

import pytest

from common.errors import InputError
from tests.website import commands

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "add-a-mechanism.md": "tests/test_add_a_mechanism.py gives these commands with the file in its place"
}
PAGES = [ROOT / "README.md", *sorted(path for path in ROOT.glob("docs/*.md") if path.name not in ELSEWHERE)]
GUIDES = ("start.md", "own-text.md", "compare.md", "eight-gpus.md", "huggingface.md")


@pytest.fixture
def reader(checkout: Path) -> Path:
    """What a reader of the guides has made by following them."""
    (study,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "compare.md").read_text(), re.DOTALL)
    (checkout / "configs" / "studies" / "mine.yaml").write_text(study)
    (checkout / "mytext").mkdir()
    (checkout / "mytext" / "a.txt").write_text("To be, or not to be.\n")
    return checkout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_taken(page: Path, reader: Path) -> None:
    for line in commands.shown(page):
        commands.check(line)


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_has_commands(page: str) -> None:
    assert len(list(commands.shown(ROOT / "docs" / page))) >= 5


@pytest.mark.parametrize(
    "line",
    [
        "python train.py configs/demo/pico.yaml train.stepz=3",
        "python train.py configs/demo/none.yaml",
        "python -m eval sinks runs/x --layers 3",
        "python -m eval sinsk runs/x",
        "python -m data prepare path=x tokenizer.size=3",
        "python -m study run configs/studies/other.yaml",
        "accelerate launch --config_file configs/accelerate/cpu-gloo.yaml train.py configs/demo/pico.yaml model.x=1",
        "make nothing",
        "pyton train.py",
    ],
)
def test_a_wrong_command_is_found(line: str, reader: Path) -> None:
    with pytest.raises((InputError, ValueError, AssertionError)):
        commands.check(line)


@pytest.mark.parametrize("page", ["start.md", "huggingface.md"])
def test_examples_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL):
        exec(example, {})
    assert capsys.readouterr().out
