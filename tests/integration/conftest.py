"""Every test in this folder runs on every backend, unless marked `any_backend`."""

import pytest


@pytest.fixture(autouse=True)
def every_backend(backend: str) -> None:
    """Choose the backend for tests that do not name it."""
