"""What the README says, against what the project does."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from attention import notes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_mechanisms_is_what_their_files_say():
    marked = notes.MARKED.search(README)
    chosen = marked["names"].split(", ")
    assert chosen == ["softmax", "softpick", "lssar", "swat", "gaussian"]
    written = marked[0].removeprefix(marked["begin"]).removesuffix(marked["end"])
    assert written == f"\n{notes.table(chosen)}\n", f"stale; run `{notes.COMMAND}`"


def test_it_can_be_read_in_a_sitting():
    assert len(README.split()) <= 1600


def test_the_index_has_every_page_of_the_docs():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == pages


def can_run(module: str) -> bool:
    """Whether there is such a module, or such a package with a command of its own."""
    found = find_spec(module)
    is_package = found is not None and found.submodule_search_locations is not None
    return find_spec(f"{module}.__main__") is not None if is_package else found is not None


def test_every_command_that_it_shows_exists():
    modules = re.findall(r"^python -m ([\w.]+)", README, re.MULTILINE)
    scripts = re.findall(r"^python (\w+\.py)", README, re.MULTILINE)
    assert modules
    assert scripts
    assert all(can_run(module) for module in modules)
    assert all((ROOT / script).is_file() for script in scripts)


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README) + re.findall(r'src="([^"]+)"', README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_every_folder_of_the_map_exists():
    tree = re.search(r"```\n(attention/.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    for line in tree.splitlines():
        name = line.split()[0]
        assert (ROOT / name).exists(), name


def test_the_examples_run(tmp_path):
    library, foreign = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(library, names)
    assert names["out"].shape == names["query"].shape
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    exec(foreign.replace("path/to/a/model", str(tmp_path)), names)
    assert names["model"].config._attn_implementation == "zoo:softpick"
