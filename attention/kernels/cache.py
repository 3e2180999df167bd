"""Where kernels keep what they compile."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """$ATTENTION_ZOO_CACHE, else a folder of the user's cache directory."""
    chosen = os.environ.get("ATTENTION_ZOO_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(home) / "attention-zoo"
