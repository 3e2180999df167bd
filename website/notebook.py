"""A notebook as a page: it is run while the site is built, and what it shows stands below each of its cells.

The notebook is kept without outputs, so none of them can be out of date.
"""

import os
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

SECONDS = 600
"""The longest that a cell may take, on a slow and busy machine."""


@dataclass(frozen=True)
class Page:
    """A notebook that was run.

    Attributes:
        markdown: its cells, with a mark where the outputs of one stand.
        outputs: HTML by mark.
    """

    markdown: str
    outputs: dict[str, str]

    def fill(self, html: str) -> str:
        """The page as HTML with outputs in place of marks."""
        for mark, output in self.outputs.items():
            html = html.replace(f"<p>{mark}</p>", f'<div class="output">{output}</div>')
        return html


def page(path: Path, root: Path) -> Page:
    """Run a notebook in a checkout, or take what it showed if its text was run before in this process.

    Raises:
        CellExecutionError: a cell fails; the message has its traceback.
    """
    return _run(path.read_text(encoding="utf-8"), path.name, root)


@cache
def _run(text: str, name: str, root: Path) -> Page:
    notebook = execute(nbformat.reads(text, as_version=4), root)
    parts, outputs = [], dict[str, str]()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        if shown := "".join(map(_shown, cell.outputs)):
            mark = f"output-of-cell-{number}"
            outputs[mark] = shown
            parts.append(mark)
    parts.insert(1, f"[Download the notebook]({name})")
    return Page("\n\n".join(parts) + "\n", outputs)


def execute(notebook: NotebookNode, root: Path) -> NotebookNode:
    """Run all cells in a kernel of their own, which starts in the checkout. Returns the notebook with outputs."""
    environment = os.environ | {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
    }
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(root)}},
    )
    return client.execute(env=environment)


def _shown(output: NotebookNode) -> str:
    """One output as HTML, in the richest form that it has."""
    if output.output_type == "stream":
        return "" if output.name == "stderr" else f"<pre>{escape(output.text)}</pre>"
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    if "image/png" in data:
        return f'<img alt="Output of the cell above" src="data:image/png;base64,{data["image/png"].strip()}">'
    return f"<pre>{escape(data.get('text/plain', ''))}</pre>"
