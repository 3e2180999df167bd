"""The peak to the end."""


def share(progress: float, options: object) -> float:
    """1."""
    return 1.0
