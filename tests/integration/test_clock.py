"""The wall clock is set while a node runs, or was wrong when it started.

A library that is preloaded before libc shows the node another wall clock; the machine's does not
change.
"""

import datetime
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raida_uring.admin.client import result_of
from raida_uring.cli import top
from tests.support import http
from tests.support.net import udp_ask
from tests.support.node import daemon, free_port
from tests.support.peers import in_background
from tests.support.wire import VERSION_COMMAND, request

pytestmark = pytest.mark.any_backend

SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>
#include <unistd.h>

static long shift(void)
{
    char text[32] = {0};
    int fd = open(getenv("SHIFT_FILE"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t got = read(fd, text, sizeof(text) - 1);
    close(fd);
    return got > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += shift();
    return result;
}

time_t time(time_t *told)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The wall clock that the node sees."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "shift"
        self.set(0)
        source, library = directory / "shift.c", directory / "shift.so"
        source.write_text(SHIFT)
        compile_it = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(compile_it, check=True)
        # Relative to the node's directory: a blank would end the name.
        # Behind what is preloaded anyway: a sanitizer's runtime has to be the first.
        preloaded = f"{os.environ.get('LD_PRELOAD', '')} ./shift.so".strip()
        self.environment = {"LD_PRELOAD": preloaded, "SHIFT_FILE": str(self._file)}

    def set(self, seconds: float) -> None:
        """Make it differ by so many seconds from now on."""
        written = self._file.with_suffix(".new")
        written.write_text(str(int(seconds)))
        written.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    shown = Clock(tmp_path)
    with monkeypatch.context() as patched:
        for name, value in shown.environment.items():
            patched.setenv(name, value)
        yield shown


def test_durations_and_rates_do_not_follow_a_step(tmp_path: Path, clock: Clock) -> None:
    port, path = free_port(), tmp_path / "admin.sock"
    began = time.monotonic()
    with daemon(
        tmp_path, admin={"socket": str(path)}, http={"enabled": True, "port": port}
    ) as node:
        url = f"http://127.0.0.1:{port}"

        def ask(done: threading.Event) -> None:
            while not done.wait(0.01):
                udp_ask(node.endpoint, request(VERSION_COMMAND))

        with in_background(ask):
            before = result_of(path, "status")
            for shift in (-3600, 86400 * 365, 0):
                clock.set(shift)
                asked_s = time.monotonic()
                time.sleep(0.5)  # what is looked at is an interval
                now = result_of(path, "status")
                most_s = time.monotonic() - asked_s + 60
                view = top.summary(now, before)
                assert 0.4 < view["interval_s"] < most_s
                assert 0 < view["rates"]["udp_received"] < 200
                assert 0 <= view["resources"]["cpu_percent"] < 1000
                assert 0 < now["uptime_s"] < time.monotonic() - began
                page = json.loads(http.ask(url, "/status.json").text)["node"]
                assert 0 < page["uptime_s"] < time.monotonic() - began
                started = http.scrape(url)["raida_start_time_seconds", ()]
                ours = time.time() + shift - now["uptime_s"]
                assert abs(started - ours) < 30, "by the clock as it is set now"
                assert abs(page["started_at"] - started) < 0.001, "the same at every look"
                before = now


@pytest.mark.parametrize("year", [1970, 1999, 2060])
def test_an_absurd_year_is_a_warning(tmp_path: Path, clock: Clock, year: int) -> None:
    wanted = datetime.datetime(year, 6, 1, tzinfo=datetime.UTC).timestamp()
    clock.set(wanted - time.time())
    path = tmp_path / "admin.sock"
    with daemon(tmp_path, admin={"socket": str(path)}) as node:
        assert node.stderr().count(f"warning the clock is in the year {year}") == 1
        clock.set(0)  # NTP has come
        now = result_of(path, "status")
        assert 0 < now["uptime_s"] < 600
        assert abs(now["started_at"] + now["uptime_s"] - time.time()) < 5


def test_a_clock_that_is_right_is_no_warning(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        assert "the clock is in the year" not in node.stderr()
