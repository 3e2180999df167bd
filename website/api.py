"""Pages of the reference, which mkdocstrings fills from docstrings.

A name that a package exports is there as soon as it is exported.
"""

from importlib import import_module

CHAPTERS = {
    "attention": ("attention", "attention.capabilities"),
    "transformers": ("attention.transformers",),
    "mechanisms": ("attention.core.mechanism", "attention.core.scores", "attention.core.masks"),
    "forms": (
        "attention.forms.pointwise",
        "attention.forms.ratio",
        "attention.forms.two_stage",
        "attention.forms.threshold",
        "attention.forms.adjusted",
        "attention.forms.composite",
        "attention.forms.chunked",
    ),
    "models": ("models",),
    "data": ("data",),
    "runs": ("storage", "storage.run"),
    "training": ("training", "training.config"),
    "evaluation": (
        "eval.subject",
        "eval.subjects.base",
        "eval.analysis",
        "eval.options",
        "eval.language_model",
        "eval.notebook",
    ),
}
"""Modules of each page."""

TITLES = {
    "attention": "attention, the library",
    "transformers": "attention.transformers",
    "mechanisms": "What a mechanism says",
    "forms": "Forms of mechanisms",
    "models": "models",
    "data": "data",
    "runs": "storage, run directories",
    "training": "training",
    "evaluation": "eval, analyses and what they measure",
}
PAGES = [f"api/{name}.md" for name in CHAPTERS]


def pages() -> dict[str, str]:
    """Each page by its place on the site."""
    return {f"api/{name}.md": _page(name, modules) for name, modules in CHAPTERS.items()}


def _page(name: str, modules: tuple[str, ...]) -> str:
    parts = [f"# {TITLES[name]}"]
    for module in modules:
        # A package says what it exports; functions are read first.
        exported = sorted(getattr(import_module(module), "__all__", ()), key=lambda x: (x[0].isupper(), x))
        members = "".join(f"\n        - {member}" for member in exported if not member.startswith("__"))
        chosen = f"\n      members:{members}" if members else ""
        parts.append(f"::: {module}\n    options:\n      heading_level: 2{chosen}")
    return "\n\n".join(parts) + "\n"
