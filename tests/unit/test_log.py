"""The log's two shapes: for a terminal or file, and for the journal."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring import log


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    """Other tests read this logger through pytest's capture."""
    logger = logging.getLogger("raida_uring")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def test_lines_carry_time_level_and_message(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        log.configure("info", stream)
        logging.getLogger("raida_uring.worker").warning("handler %s failed", "0/1")
        logging.getLogger("raida_uring").debug("not written")
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning handler 0/1 failed\n", text)


def test_journal_gets_priorities_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.configure("debug", stream)
        logging.getLogger("raida_uring").error("first\nsecond")
        logging.getLogger("raida_uring").info("third")
    assert (tmp_path / "log").read_text() == "<3>first\n<3>second\n<6>third\n"


def test_stream_that_is_not_the_journal_s_keeps_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    with (tmp_path / "log").open("w") as stream:
        log.configure("info", stream)
        logging.getLogger("raida_uring").info("x")
    assert re.fullmatch(r"\d\d:\d\d:\d\d info x\n", (tmp_path / "log").read_text())


def test_configuring_again_writes_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        log.configure("info", stream)
        log.configure("info", stream)
        logging.getLogger("raida_uring").info("once")
    assert (tmp_path / "log").read_text().count("once") == 1
