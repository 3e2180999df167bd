"""Caches that tests make, with compiled kernels borrowed from the user's cache; what is new is given back to it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from attention.core import cache
from attention.kernels.cpu.build import BuildError
from attention.kernels.cpu.ops import load_engine


@contextmanager
def own_cache(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Keep what tests make in a folder, with the user's kernels in it; nothing is asked of a network."""
    with borrowed_kernels(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTENTION_ZOO_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield patch


@contextmanager
def borrowed_kernels(folder: Path) -> Iterator[None]:
    """Fill a folder with the user's compiled kernels, so that a session of tests compiles none that is there.

    The engine, which takes half a minute, is compiled into the user's cache if it is missing.
    """
    home = cache.cache_directory()
    with suppress(BuildError):
        load_engine()
    _copy(home, folder)
    yield
    with suppress(OSError):
        _copy(folder, home)


def _copy(source: Path, target: Path) -> None:
    for library in source.glob("*.so"):
        if cache.intact(library) and not (target / library.name).exists():
            cache.open_folder(target)
            with cache.workspace(target) as scratch:
                cache.keep(Path(shutil.copy(library, scratch)), target / library.name)
