"""Links of the repository as links of the site."""

from pathlib import Path

import pytest

from website.outside import Outside


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    for path, text in {
        "docs/README.md": "",
        "docs/data.md": "",
        "docs/mechanisms.md": "",
        "study/definition.py": 'FENCE = "```"\n',
        "bench/results/speed.md": "# Speed\n\n[more](memory.md) [code](../../study/definition.py)\n",
        "bench/results/memory.md": "# Memory\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return Outside(tmp_path)


@pytest.mark.parametrize(
    ("uri", "link", "on_the_site"),
    [
        ("README.md", "data.md#part", "data.md#part"),
        ("README.md", "mechanisms.md", "mechanisms/index.md"),
        ("README.md", "mechanisms.md#softpick", "mechanisms/softpick.md"),
        ("mechanisms/softpick.md", "../data.md", "../data.md"),
        ("mechanisms/softpick.md", "../../study/definition.py", "../study/definition.py.md"),
        ("data.md", "../bench/results", "bench/results/index.md"),
        ("data.md", "../bench/results/speed.md", "bench/results/speed.md"),
        ("bench/results/speed.md", "memory.md", "memory.md"),
        ("bench/results/index.md", "speed.md", "speed.md"),
        ("bench/results/speed.md", "../../docs/data.md", "../../data.md"),
        ("data.md", "missing.md", "missing.md"),
        ("data.md", "../../beyond.md", "../../beyond.md"),
        ("data.md", "https://example.org/data.md", "https://example.org/data.md"),
    ],
)
def test_a_link_leads_to_the_page_of_its_file(
    outside: Outside, uri: str, link: str, on_the_site: str
) -> None:
    assert outside.relink(f"see [x]({link}).", uri) == f"see [x]({on_the_site})."


def test_files_that_are_linked_have_pages_and_those_that_they_link_too(outside: Outside) -> None:
    made = outside.pages({"data.md": "[results](../bench/results)"})
    assert set(made) == {
        "bench/results/index.md",
        "bench/results/speed.md",
        "bench/results/memory.md",
        "study/definition.py.md",
    }
    assert made["bench/results/index.md"] == "# bench/results\n\n- [memory](memory.md)\n- [speed](speed.md)\n"
    source = made["study/definition.py.md"]
    assert '````python\nFENCE = "```"\n````\n' in source
    assert source.startswith("---\nsearch:\n  exclude: true\n---\n")
