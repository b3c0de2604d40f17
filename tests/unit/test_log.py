"""The log's two shapes: for a terminal or file, and for the journal."""

import gc
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from raida_uring import log
from raida_uring.log.event import Event
from raida_uring.log.repeats import REPEATS_INTERVAL_S, Repeats
from raida_uring.log.writer import QUEUE_BYTES_MAX, Text, Writer
from tests.support.command_line import run_script
from tests.support.net import PATIENCE


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
        fields = ("peer", "status")
        request = Event(logging.INFO, "two\nlines %(count)d", "of a test", fields, name="request")
        request.log(peer="::1", status=250, count=7)
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


def test_an_event_takes_a_level_further_fields_and_an_exception(tmp_path: Path) -> None:
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream, form="json")
        counted = Event(logging.NOTSET, "so many", "of a test", ("count",), name="counted")
        try:
            raise ValueError("odd")
        except ValueError as error:
            counted.log(level=logging.WARNING, count=7, more={"udp": 1, "tcp": 2}, exc_info=True)
            counted.log(level=logging.ERROR, count=8, exc_info=error)
        counted.log(level=logging.DEBUG, count=9)
    first, second = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert list(first) == ["time", "level", "event", "message", "count", "udp", "tcp", "traceback"]
    assert (first["level"], first["count"], first["tcp"]) == ("warning", 7, 2)
    assert (second["level"], second["traceback"]) == ("error", first["traceback"])


def test_journal_entries_have_fields_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(10)
        with flushed(tmp_path / "log") as stream:
            log.configure("info", stream, form="journal", journal=path)
            fields = ("peer", "status")
            request = Event(logging.WARNING, "a\nb", "of a test", fields, name="request")
            request.log(peer="::1", status=250)
        entry = journal.recv(65536)
    assert b"MESSAGE\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\n" in entry
    for field in (b"PRIORITY=4", b"RAIDA_EVENT=request", b"RAIDA_PEER=::1", b"RAIDA_STATUS=250"):
        assert field in entry.splitlines()
    assert f"CODE_FILE={__file__}".encode() in entry.splitlines()
    assert (tmp_path / "log").read_text() == ""


def test_journal_that_goes_away_is_replaced_by_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with flushed(tmp_path / "log") as stream:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.bind(str(path))
            log.configure("info", stream, form="journal", journal=path)
        logging.getLogger("raida_uring").error("nobody reads")
    assert (tmp_path / "log").read_text() == "<3>nobody reads\n"


def test_repeats_are_held_back_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("raida_uring.log.repeats.time.monotonic", lambda: now)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring")
        for number in range(50):
            logger.info("peer %d is odd", number)
        logger.info("something else")
        log.sweep()  # the interval has not ended
        now += REPEATS_INTERVAL_S
        logger.info("peer %d is odd", 99)
        for number in range(12):
            logger.error("twelve times: %d", number)
        now += REPEATS_INTERVAL_S
        log.sweep()
        log.sweep()
    lines = [line[9:] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [
        *(f"info peer {number} is odd" for number in range(10)),
        "info something else",
        "info peer 99 is odd (40 such lines held back before)",
        *(f"error twelve times: {number}" for number in range(10)),
        "error 2 lines held back, as: twelve times: 10",
    ]


def test_arguments_that_do_not_fit_do_not_harm_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler's module may pass them: the message is logged unformatted."""
    now = 1000.0
    monkeypatch.setattr("raida_uring.log.repeats.time.monotonic", lambda: now)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring.handlers")
        for _ in range(12):
            logger.info("%d coins", "many")
        now += REPEATS_INTERVAL_S
        logger.info("%d coins", "many")
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last[9:] == "info %d coins (2 such lines held back before)"


def test_a_message_without_text_does_not_harm_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring.handlers")
        logger.info(Odd())
        logger.info("next")
    assert (tmp_path / "log").read_text()[9:] == "info next\n"


def test_lines_of_a_level_without_a_name_are_held_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler may use such a level."""
    now = 1000.0
    monkeypatch.setattr("raida_uring.log.repeats.time.monotonic", lambda: now)
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        for _ in range(12):
            logging.getLogger("raida_uring.handlers").log(25, "between info and warning")
        now += REPEATS_INTERVAL_S
        log.sweep()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last[9:] == "level 25 2 lines held back, as: between info and warning"


def quickly(logger: logging.Logger, count: int, bytes_each: int) -> None:
    """Log, and fail if that takes too long."""
    began = time.monotonic()
    for number in range(count):
        logger.warning(f"{number} {'x' * bytes_each}")
    assert time.monotonic() - began < 10 * PATIENCE


def test_a_pipe_that_nobody_reads_delays_nobody() -> None:
    """The queue is bounded; dropped lines are counted, and reported once somebody reads."""
    reading, writing = os.pipe()
    before = log.dropped()
    with open(writing, "w", encoding="utf-8") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring.worker")
        quickly(logger, 200, 100_000)
        lost = log.dropped() - before
        assert 200 - QUEUE_BYTES_MAX // 100_000 <= lost < 200
        assert not log.flush()
        said: list[bytes] = []
        with open(reading, "rb") as reader:
            while not said or b"lines of this log were dropped" not in said[-1]:
                said.append(reader.readline())
            assert log.flush()
    assert f"error {lost} lines of this log were dropped" in said[-1].decode()
    assert [int(line.split()[2]) for line in said[:-1]] == list(range(200 - lost))


def test_lines_of_requests_leave_room_for_what_goes_wrong() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w", encoding="utf-8") as stream:
        log.configure("info", stream)
        logger = logging.getLogger("raida_uring.requests")
        before = log.dropped()
        while log.dropped() == before:
            logger.info("x" * 50_000, extra={"unlimited": True})
        before = log.dropped()
        logger.error("the store is gone")
        assert log.dropped() == before
        while b"the store is gone" not in reader.readline():
            pass
        log.flush()


def test_a_journal_that_stalls_delays_nobody(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.settimeout(10 * PATIENCE)
        with (tmp_path / "log").open("w") as stream:
            log.configure("info", stream, form="journal", journal=path)
            quickly(logging.getLogger("raida_uring"), 3000, 5000)
            assert not log.flush()
            number = 0
            while b"RAIDA_EVENT=lines_dropped" not in (entry := journal.recv(65536)):
                assert b"MESSAGE=%d x" % number in entry
                number += 1
            assert log.flush()
    assert (tmp_path / "log").read_text() == "", "it was there all the time"


def test_a_line_is_out_before_its_writer_goes_on(tmp_path: Path) -> None:
    """The last line of a process that is killed or aborts right after it."""
    script = (
        "import logging, os, sys\n"
        "from raida_uring import log\n"
        "log.configure('info')\n"
        "logging.getLogger('raida_uring').error('last words')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    spoken = 0
    for _ in range(5):  # a machine that is busy may take longer than we wait
        spoken += "last words" in run_script(script).stderr
    assert spoken >= 3


def test_a_finalizer_may_log_while_others_do(tmp_path: Path) -> None:
    """The garbage collector may run on the thread that holds the queue."""

    class Speaks:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            logging.getLogger("raida_uring").info("gone", extra={"unlimited": True})

    threshold = gc.get_threshold()
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        gc.set_threshold(1)
        try:
            for _ in range(300):
                Speaks()
                logging.getLogger("raida_uring").info("here", extra={"unlimited": True})
        finally:
            gc.set_threshold(*threshold)
        gc.collect()
    assert (tmp_path / "log").read_text().count("gone") >= 300


def test_a_finalizer_may_log_at_any_step_of_the_thread_that_writes() -> None:
    """Also where it is about to wait for the next line, which must not be missed then."""
    written: list[bytes] = []

    class Place:
        def write(self, texts: Sequence[Text]) -> int:
            written.extend(text.data for text in texts)
            return 0

    place, left = Place(), [-1]  # how many steps are left until something is finalized

    def step(_frame: object, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            left[0] -= 1
            if left[0] == 0:
                writer.put(place, Text(b"gone"), lesser=False)

    writer = Writer(lambda _count: None)
    threading.setprofile(step)
    try:
        writer.start()
    finally:
        threading.setprofile(None)
    assert writer.flush()
    for number in range(1, 60):
        left[0] = number
        writer.put(place, Text(b"here"), lesser=False)
        assert writer.flush(), f"at step {number}"
    assert written.count(b"here") == 59
    assert written.count(b"gone") >= 10


def test_who_is_finalized_while_repeated_lines_are_counted_may_log(tmp_path: Path) -> None:
    """The collector also runs on the thread that counts."""
    logger = logging.getLogger("raida_uring")

    class Speaks:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            logger.info("gone")

    def speak() -> None:
        for number in range(60):
            gc.set_threshold(0)
            gc.collect()
            Speaks()
            gc.set_threshold(1 + number)  # it runs at one step of a line after the other
            logger.info(f"here {number}")

    threshold = gc.get_threshold()
    with flushed(tmp_path / "log") as stream:
        log.configure("info", stream)
        speaking = threading.Thread(target=speak, daemon=True)
        speaking.start()
        speaking.join(30 * PATIENCE)
        gc.set_threshold(*threshold)
        assert not speaking.is_alive()
    assert (tmp_path / "log").read_text().count("here") == 60


def test_a_finalizer_may_log_at_any_step_of_forgetting_the_oldest_kind() -> None:
    repeats, left = Repeats(), [-1]

    def passes(template: str) -> bool:
        record = logging.LogRecord("raida_uring", logging.INFO, "here", 1, template, None, None)
        return repeats.filter(record)

    def step(_frame: object, event: str, _argument: object) -> None:
        if event in ("call", "c_call", "c_return"):
            left[0] -= 1
            if left[0] == 0:
                assert passes(f"gone {number}")

    for number in range(300):  # more kinds than are remembered
        assert passes(f"here {number}")
    for number in range(300, 460):
        left[0] = number - 299
        sys.setprofile(step)
        try:
            assert passes(f"here {number}")
        finally:
            sys.setprofile(None)
    assert left[0] > 0  # the last ones were not reached any more


def test_a_file_whose_disk_was_full_goes_on_with_a_whole_line(tmp_path: Path) -> None:
    """A limit on the file's size is set and then lifted."""
    path = tmp_path / "log"
    script = (
        "import logging, resource\n"
        "from raida_uring import log\n"
        "log.configure('info')\n"
        "logger = logging.getLogger('raida_uring')\n"
        "none = resource.RLIM_INFINITY\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, none))\n"
        "for _ in range(9): logger.info('x' * 30)\n"
        "assert log.flush()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (none, none))\n"
        "logger.info('again')\n"
        "assert log.flush()\n"
    )
    with path.open("wb") as stderr:
        assert run_script(script, stderr=stderr).returncode == 0
    lines = [line[9:] for line in path.read_text().splitlines()]
    assert lines[:2] == [f"info {'x' * 30}"] * 2
    assert lines[3:] == [
        "info again",
        "error 7 lines of this log were dropped: nobody read it, or it could not be written",
    ]
