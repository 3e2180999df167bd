"""Pages from templates: HTML with nothing to load from anywhere."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

HERE = "eval.drawing"


def render(template: str, *, package: str = HERE, **values: Any) -> str:
    """A template, filled; every text is escaped.

    Args:
        template: its name.
        package: whose folder `templates` has it; it may extend and include those of this package.
        values: that it asks for.
    """
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, HERE))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(template).render(**values)
