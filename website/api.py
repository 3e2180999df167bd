"""Pages of the reference, which mkdocstrings fills from docstrings.

A name that a package exports is there as soon as it is exported.
"""

import itertools
from importlib import import_module

CHAPTERS = {
    "attention": ("attention, the library", ("attention", "attention.capabilities")),
    "transformers": ("attention.transformers", ("attention.transformers",)),
    "mechanisms": (
        "What a mechanism says",
        ("attention.core.mechanism", "attention.core.scores", "attention.core.masks"),
    ),
    "forms": (
        "Forms of mechanisms",
        (
            "attention.forms.pointwise",
            "attention.forms.ratio",
            "attention.forms.two_stage",
            "attention.forms.threshold",
            "attention.forms.adjusted",
            "attention.forms.composite",
            "attention.forms.chunked",
        ),
    ),
    "models": ("models", ("models",)),
    "data": ("data", ("data",)),
    "runs": ("storage, run directories", ("storage", "storage.run")),
    "training": ("training", ("training", "training.config")),
    "evaluation": (
        "eval, analyses and what they measure",
        (
            "eval.subject",
            "eval.subjects.base",
            "eval.analysis",
            "eval.options",
            "eval.language_model",
            "eval.notebook",
        ),
    ),
}
"""Title and modules of each page."""

PAGES = [f"api/{name}.md" for name in CHAPTERS]


def pages() -> dict[str, str]:
    """Each page by its place on the site."""
    return dict(zip(PAGES, itertools.starmap(_page, CHAPTERS.values()), strict=True))


def _page(title: str, modules: tuple[str, ...]) -> str:
    parts = [f"# {title}"]
    for module in modules:
        # A package says what it exports; functions are read first.
        exported = sorted(getattr(import_module(module), "__all__", ()), key=lambda x: (x[0].isupper(), x))
        members = "".join(f"\n        - {member}" for member in exported if not member.startswith("__"))
        chosen = f"\n      members:{members}" if members else ""
        parts.append(f"::: {module}\n    options:\n      heading_level: 2{chosen}")
    return "\n\n".join(parts) + "\n"
