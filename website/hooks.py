"""What mkdocs calls while it builds the site: pages that are made, and links that lead out of docs/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from attention import names
from website import api, mechanisms, notebook
from website.outside import Outside

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "website" / "assets"

_outside = Outside(ROOT)
_notebooks: dict[str, notebook.Page] = {}


def on_config(config: Any) -> None:
    """Fill the chapters whose pages are made here."""
    chapters = {"Mechanisms": [f"mechanisms/{name}.md" for name in names()], "API": api.PAGES}
    for entry in config.nav:
        for title, pages in entry.items():
            if title in chapters:
                pages += chapters[title]


def on_files(files: Files, config: Any) -> Files:
    """Add what is made, and take out the long page of mechanisms, whose sections have pages of their own."""
    files.remove(files.src_uris["mechanisms.md"])
    sources = mechanisms.Sources.read(ROOT)
    made = {"mechanisms/index.md": mechanisms.index()}
    made |= {f"mechanisms/{name}.md": mechanisms.page(name, sources) for name in names()}
    made |= api.pages()
    for uri in [file.src_uri for file in files if file.src_uri.endswith(".ipynb")]:
        _notebooks[f"{uri.removesuffix('.ipynb')}.md"] = notebook.page(ROOT / "docs" / uri, ROOT)
    made |= {uri: run.markdown for uri, run in _notebooks.items()}
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    made |= _outside.pages({**texts, **made})
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for path in ASSETS.iterdir():
        files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    return _outside.relink(markdown, page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Put the outputs of a notebook where its page has marks."""
    run = _notebooks.get(page.file.src_uri)
    return run.fill(html) if run else html
