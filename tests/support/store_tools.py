"""`raida-uring store`, as an operator calls it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from raida_uring.store import PAGE_SIZE, page_of
from tests.support.command_line import PROGRAM, execute, output_of
from tests.support.node import assert_refuses_to_start, config_text
from tests.support.page_files import tree

STORE = (*PROGRAM, "store")
NOBODY = 65534

# Whole, short, empty and longer files; every other one is missing.
SIZES = {
    page_of(-8, 0): PAGE_SIZE,
    page_of(-8, 999): PAGE_SIZE,
    page_of(-1, 255): PAGE_SIZE - 1,
    page_of(0, 0): PAGE_SIZE,
    page_of(0, 256): PAGE_SIZE + 1,
    page_of(0, 257): 0,
    page_of(1, 511): 5 * PAGE_SIZE,
    page_of(6, 17): 17,
    page_of(6, 999): PAGE_SIZE,
}


def store(*args: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """`raida-uring store ...`"""
    return execute(*STORE, *args, **how)


def done(*args: object) -> str:
    """Standard output of `raida-uring store ...`, which succeeds."""
    return output_of(*STORE, *args)


def refused(ended: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert ended.returncode == 2, f"{ended.returncode} {ended.stdout}{ended.stderr}"
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert re.search(pattern, ended.stderr), ended.stderr
    assert not ended.stdout


def config_file(directory: Path, **settings: object) -> Path:
    path = directory / "store.toml"
    path.write_text(config_text({"store": settings}))
    return path


def assert_incomplete(path: Path, directory: Path) -> None:
    assert_refuses_to_start(
        directory, "holds only a part of the coins: the import of", store={"path": str(path)}
    )
    refused(store("export", directory / "none", "--store", path), "only a part of the coins")
    assert not (directory / "none").exists()
    ended = store("verify", "--store", path)
    assert ended.returncode == 1
    assert "only a part of the coins" in ended.stdout
    assert "the import of" in json.loads(done("stat", "--json", "--store", path))["unfinished"]


def assert_import_succeeds(data: Path, path: Path, directory: Path) -> None:
    done("import", data, "--store", path)
    done("export", directory / "out", "--store", path)
    assert tree(directory / "out") == tree(data)
