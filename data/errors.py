"""The errors of this package."""

from common.errors import InputError


class DataError(InputError):
    """A mistake in the configuration or files of the data, in one line: what is wrong, and what is right."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\r", "\\r").replace("\n", "\\n"))


class StoppedError(DataError):
    """A build that stopped for a reason outside of the data; what is done stays, and the next call goes on there."""
