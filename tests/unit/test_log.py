"""The log's two shapes: for a terminal or file, and for the journal."""

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from raida_uring import log


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    """Other tests read this logger through pytest's capture."""
    logger = logging.getLogger("raida_uring")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


@contextmanager
def flushed(path: Path) -> Iterator[TextIO]:
    """A file to log to; what was logged is in it afterwards."""
    with path.open("w") as stream:
        yield stream
        assert log.flush()


def test_lines_carry_time_level_and_message(tmp_path: Path) -> None:
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logging.getLogger("raida_uring.worker").warning("handler %s failed", "0/1")
        logging.getLogger("raida_uring").debug("not written")
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning handler 0/1 failed\n", text)


def test_journal_gets_priorities_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flushed(tmp_path / "log") as stream:
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
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logging.getLogger("raida_uring").info("x")
    assert re.fullmatch(r"\d\d:\d\d:\d\d info x\n", (tmp_path / "log").read_text())


def test_configuring_again_writes_once(tmp_path: Path) -> None:
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        log.configure("info", stream)
        logging.getLogger("raida_uring").info("once")
    assert (tmp_path / "log").read_text().count("once") == 1


def test_json_lines_carry_the_event_and_its_fields(tmp_path: Path) -> None:
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream, form="json")
        logger = logging.getLogger("raida_uring")
        logger.info("two\nlines %d", 7, extra=log.event("request", peer="::1", status=250))
        try:
            raise ValueError("odd")
        except ValueError:
            logger.exception("failed")
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info",
        "event": "request",
        "message": "two\nlines 7",
        "peer": "::1",
        "status": 250,
    }
    assert second["level"] == "error"
    assert second["traceback"].endswith("ValueError: odd")


def test_journal_entries_have_fields_of_their_own(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "journal"))  # a socket's path ends at 107 bytes
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(10)
        with flushed(tmp_path / "log") as stream:
            log.configure("info", stream, form="journal", journal=path)
            logger = logging.getLogger("raida_uring")
            logger.warning("a\nb", extra=log.event("request", peer="::1", status=250))
        entry = journal.recv(65536)
    assert b"MESSAGE\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\n" in entry
    for field in (b"PRIORITY=4", b"RAIDA_EVENT=request", b"RAIDA_PEER=::1", b"RAIDA_STATUS=250"):
        assert field in entry.splitlines()
    assert (tmp_path / "log").read_text() == ""


def test_journal_that_goes_away_is_replaced_by_standard_error(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "journal"))
    with flushed(tmp_path / "log") as stream:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.bind(str(path))
            log.configure("info", stream, form="journal", journal=path)
        logging.getLogger("raida_uring").error("nobody reads")
    assert (tmp_path / "log").read_text() == "<3>nobody reads\n"


def test_repeats_are_held_back_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("raida_uring.log.time.monotonic", lambda: now)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring")
        for number in range(50):
            logger.info("peer %d is odd", number)
        logger.info("something else")
        log.sweep()  # the interval has not ended
        now += log.REPEATS_INTERVAL_S
        logger.info("peer %d is odd", 99)
        for _ in range(12):
            logger.error("twelve times")
        now += log.REPEATS_INTERVAL_S
        log.sweep()
        log.sweep()
    lines = [line[9:] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [
        *(f"info peer {number} is odd" for number in range(10)),
        "info something else",
        "info peer 99 is odd (40 such lines held back before)",
        *["error twelve times"] * 10,
        "error 2 lines held back: twelve times",
    ]


def test_lines_of_a_level_without_a_name_are_held_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a handler may have them."""
    now = 1000.0
    monkeypatch.setattr("raida_uring.log.time.monotonic", lambda: now)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        for _ in range(12):
            logging.getLogger("raida_uring.handlers").log(25, "between info and warning")
        now += log.REPEATS_INTERVAL_S
        log.sweep()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last[9:] == "level 25 2 lines held back: between info and warning"
