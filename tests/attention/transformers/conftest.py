"""Models of transformers, small and random."""

import pytest

pytest.importorskip("transformers")

import attention.transformers


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    attention.transformers.register()
