"""Checks with a log that nobody reads."""

import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Iterator

from tools.systemd.proof import (
    CONFIG,
    JOURNALD,
    STOP_TIMEOUT_S,
    UNIT,
    WATCHDOG_S,
    Hammer,
    answers,
    check,
    configured,
    cursor,
    eventually,
    fresh_start,
    journal,
    logged,
    main_pid,
    must,
    must_be_active,
    run,
    shown,
    systemctl,
    timed,
    told,
)


@contextlib.contextmanager
def journald_stopped() -> Iterator[None]:
    """By SIGSTOP. Its own watchdog gives it three minutes, and cursor() waits for it."""
    journald = int(shown("MainPID", JOURNALD))
    os.kill(journald, signal.SIGSTOP)
    try:
        stat = pathlib.Path(f"/proc/{journald}/stat")
        eventually(lambda: stat.read_text().rpartition(") ")[2][0] == "T", 2, "not stopped")
        yield
        must(int(shown("MainPID", JOURNALD)) == journald, "journald was killed meanwhile")
    finally:
        os.kill(journald, signal.SIGCONT)


def with_lines(per_s: int) -> str:
    """The configuration with another [log] requests_per_s."""
    text = CONFIG.read_text()
    must("[log]\n" in text, "no [log]")
    return text.replace("[log]\n", f"[log]\nrequests_per_s = {per_s}\n")


def lines_dropped() -> int:
    """As `raida-uring status` has it; 0 also when it does not answer."""
    done = run("status", "--json", "--config", str(CONFIG))
    return int(json.loads(done.stdout)["log"]["dropped"]) if done.returncode == 0 else 0


@check
def journald_stands() -> str:
    """journald stopped: the node serves and is told things; what was dropped is logged later"""
    fresh_start()
    since, former = cursor(), main_pid()
    took: dict[str, float] = {}
    with Hammer() as hammer:
        with journald_stopped():
            before = sum(hammer.answered.values())
            time.sleep(2.5 * WATCHDOG_S)
            per_s = (sum(hammer.answered.values()) - before) / (2.5 * WATCHDOG_S)
            must(per_s > 100, f"{per_s:.0f} requests/s are not a line each for 100 lines/s")
            must(main_pid() == former, "another process")
            must_be_active()
            took["status"] = told("status")
            took["raida-uring reload"] = told("reload")
            with configured(with_lines(1000)):  # drops sooner
                took["systemctl reload"] = timed(lambda: systemctl("reload", UNIT))
                took["upgrade"] = told("upgrade")
                eventually(lambda: main_pid() not in (0, former), 5, "MAINPID as before")
                must_be_active()
                old, former = former, main_pid()
                gone = pathlib.Path(f"/proc/{old}")
                eventually(lambda: not gone.exists(), 20, "the old one is there")
                took["restart"] = timed(lambda: systemctl("restart", UNIT))
                must(main_pid() not in (0, former) and answers(), "no answer after a restart")
                took["drop"] = eventually(lambda: lines_dropped() > 0, 60, "nothing dropped")
                must_be_active()
        entry = logged("lines_dropped", since, 60)
        must(entry.get("_PID") == str(main_pid()), f"another process: {entry}")
        must(entry["PRIORITY"] == "3", f"priority {entry['PRIORITY']}")
    slowest = max(took, key=lambda name: 0 if name == "drop" else took[name])
    must(took[slowest] < STOP_TIMEOUT_S / 2, f"{slowest}: {took[slowest]:.1f} s")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    return f"{times}; {entry['MESSAGE']}; {hammer.summary()}"


@check
def journald_stands_at_the_stop() -> str:
    """journald stopped: `systemctl stop` ends the node well and within its time-out"""
    seen = []
    for per_s, full in ((100, "journald's socket"), (1000, "the node's queue as well")):
        with configured(with_lines(per_s)):
            fresh_start()
            since = cursor()
            with journald_stopped():
                with Hammer():
                    if per_s == 100:
                        time.sleep(WATCHDOG_S)  # twice what the socket takes
                    else:
                        eventually(lambda: lines_dropped() > 0, 60, "nothing dropped")
                took_s = timed(lambda: systemctl("stop", UNIT))
                must(shown("Result") == "success", f"{shown('Result')} after {took_s:.1f} s")
            must(took_s < STOP_TIMEOUT_S / 2, f"{took_s:.1f} s with {full} full")
            cursor()  # journald has caught up
            said = [str(entry["MESSAGE"]) for entry in journal(since)]
            ended = any("Deactivated successfully" in text for text in said)
            must(ended, f"the journal knows no good end: {said[-5:]}")
            killed = [text for text in said if "SIGKILL" in text or "timed out" in text]
            must(not killed, str(killed))
            seen.append(f"{took_s:.1f} s with {full} full")
    return ", ".join(seen)
