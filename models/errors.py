"""The one error that a mistake about models, their configs or their runs raises."""

from common.errors import InputError


class ModelError(InputError):
    """A config, call or run directory that cannot be served: says what was wrong and what would be right."""
