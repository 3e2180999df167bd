"""What the README says, against what the project does."""

import re
from pathlib import Path

import attention
from attention import notes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_of_mechanisms_are_those_of_the_registry():
    written = README.partition(notes.BEGIN)[2].partition(notes.END)[0]
    assert written == f"\n{notes.table()}\n", f"stale; run `{notes.COMMAND}`"
    rows = re.findall(r"^\| \[`(\w+)`\]", written, re.MULTILINE)
    assert sorted(rows) == attention.names()


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
