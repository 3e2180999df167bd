"""Links from docs/ to other files of the repository. On the site each such file is a page.

A page of Markdown stays one, anything else becomes a page that shows it, a folder becomes a list of its pages. So links
are written as they work in a checkout, and none of them needs a host of the repository.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s:#]+)(?P<anchor>#[^)\s]*)?(?=\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".h": "cpp", ".cpp": "cpp", ".toml": "toml"}
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
MECHANISMS = "docs/mechanisms.md"


class Outside:
    """The files of a checkout that pages link to.

    Args:
        root: of the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def pages(self, texts: Mapping[str, str]) -> dict[str, str]:
        """The pages that these pages, and they themselves, link to: texts by their place on the site."""
        made: dict[str, str] = {}
        waiting = dict(texts)
        while waiting:
            uri, text = waiting.popitem()
            for match in LINK.finditer(text):
                path = self._target(uri, match["target"])
                if path is None or path.startswith("docs/") or self._place(path) in made:
                    continue
                made[self._place(path)] = waiting[self._place(path)] = self._show(path)
        return made

    def relink(self, text: str, uri: str) -> str:
        """The text of a page with links to the site's pages in place of the repository's files."""

        def replace(match: re.Match[str]) -> str:
            path, anchor = self._target(uri, match["target"]), match["anchor"] or ""
            if path is None:
                return match[0]
            place = self._place(path)
            if path == MECHANISMS and anchor:
                place, anchor = f"mechanisms/{anchor[1:]}.md", ""
            return posixpath.relpath(place, posixpath.dirname(uri) or ".") + anchor

        return LINK.sub(replace, text)

    def _target(self, uri: str, target: str) -> str | None:
        """The path in the repository that a link of a page means, None where nothing is there."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self._origin(uri)), target))
        return path if not path.startswith("..") and (self.root / path).exists() else None

    def _origin(self, uri: str) -> str:
        """The path in the repository that a page of the site stands for."""
        for path in (f"docs/{uri}", uri, uri.removesuffix(".md"), posixpath.dirname(uri)):
            if path and (self.root / path).exists():
                return path if (self.root / path).is_file() else f"{path}/index.md"
        return f"docs/{uri}"

    def _place(self, path: str) -> str:
        """The page of the site that shows a file of the repository."""
        if path == MECHANISMS:
            return "mechanisms/index.md"
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        if (self.root / path).is_dir():
            return f"{path}/index.md"
        return path if path.endswith(".md") else f"{path}.md"

    def _show(self, path: str) -> str:
        file = self.root / path
        if file.is_dir():
            pages = sorted(page.name for page in file.glob("*.md"))
            return f"# {path}\n\n" + "".join(f"- [{page.removesuffix('.md')}]({page})\n" for page in pages)
        if path.endswith(".md"):
            return file.read_text(encoding="utf-8")
        text = file.read_text(encoding="utf-8")
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 3)
        language = LANGUAGES.get(file.suffix, "text")
        return f"{UNSEARCHED}# `{path}`\n\n{fence}{language}\n{text}{fence}\n"
