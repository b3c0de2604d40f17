"""Every test in this folder runs on every backend, unless marked `any_backend`. Shared fixtures."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page_files import write_page_files
from tests.support.store_tools import SIZES, done


@pytest.fixture(autouse=True)
def every_backend(backend: str) -> None:
    """Choose the backend for tests that do not name it."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: a socket's path ends at 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="raida-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page files of every length, to be imported."""
    return write_page_files(tmp_path_factory.mktemp("reference") / "Data", SIZES)


@pytest.fixture(scope="module")
def imported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds `data`, not to be changed."""
    path = tmp_path_factory.mktemp("imported") / "store"
    done("import", data, "--store", path)
    return path
