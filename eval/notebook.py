"""Pages below the cells of a notebook: the attention of runs on a prompt, and their report.

    from eval.notebook import attention, report

    attention("runs/micro-softmax", "runs/micro-softpick", prompt="To be, or not to be")
    report("runs/seeds")

Each page is whole and loads nothing; `save` writes it to a file.
"""

import html
from dataclasses import dataclass
from pathlib import Path

from common import files
from eval import catalogue
from eval.analyses import heatmaps
from eval.analysis import evaluate
from eval.report import command
from eval.report.collection import collect, environment
from eval.report.contents import Report
from eval.subject import expand, open_subject
from eval.subjects.base import Subject


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows.

    Attributes:
        html: of the whole page.
        height: of its frame, in pixels.
    """

    html: str
    height: int = 860

    def _repr_html_(self) -> str:
        frame = f'style="width: 100%; height: {self.height}px; border: 0" title="page"'
        return f'<iframe {frame} srcdoc="{html.escape(self.html)}"></iframe>'

    def save(self, path: str | Path) -> Path:
        """Write the page to a file."""
        files.write(Path(path), self.html)
        return Path(path)


def attention(*runs: str | Path, prompt: str | None = None, cells: int = 192) -> Page:
    """Show the weights of every layer and head of runs on one prompt.

    Args:
        runs: run directories, folders of them, or directories of Hugging Face models.
        prompt: text to attend on; by default how the first held-out document begins.
        cells: to a side; longer prompts are max-pooled.

    Raises:
        InputError: a run that cannot be opened, an empty or too long prompt.
    """
    from eval.drawing import viewer

    subjects = _open(runs)
    settings = heatmaps.shared(subjects, heatmaps.Settings(prompt=prompt, cells=cells))
    measured = [evaluate(catalogue.get("heatmaps"), subject, settings) for subject in subjects]
    return Page(viewer.page(heatmaps.maps(measured), measured[0].results.prompt, tracked=False))


def report(*runs: str | Path, title: str = command.Settings.title) -> Page:
    """Show the report of runs, from what has been measured of them.

    Args:
        runs: run directories, or folders of them.
        title: of the page.

    Raises:
        InputError: a run that cannot be opened.
    """
    from eval.report.page import render

    command.before(command.Settings())
    return Page(render(Report(title, collect(_open(runs)), environment())))


def _open(runs: tuple[str | Path, ...]) -> list[Subject]:
    return [open_subject(run) for run in expand([str(run) for run in runs])]
