"""What the README says, against what the project does."""

import re
from pathlib import Path

import attention

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_mechanisms_is_that_of_the_registry():
    section = README.partition("## The mechanisms")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    rows = {name: (formula.replace("\\|", "|"), paper) for name, formula, paper in lines}
    assert rows == {entry.name: (entry.formula, entry.paper) for entry in attention.capabilities()}


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README) + re.findall(r'src="([^"]+)"', README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_every_folder_of_the_map_exists():
    tree = re.search(r"```\n(attention/.*?)```", README, re.DOTALL)[1]
    for line in tree.splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists(), name


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["out"].shape == names["query"].shape
