"""The one error that a mistake about models, their configs or their runs raises."""

from collections.abc import Collection, Mapping

from common.errors import InputError


class ModelError(InputError):
    """A config, call or run directory that cannot be served: says what was wrong and what would be right."""


def listed(problems: Mapping[str, Collection[str]]) -> str:
    """Say how many tensors are wrong in which way, with three names of each; nothing where none is."""
    return "; ".join(
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])})" for what, names in problems.items() if names
    )
