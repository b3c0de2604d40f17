"""Nodes under strace: what they ask the kernel for, and what follows when it refuses."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.command_line import execute
from tests.support.needs import require
from tests.support.node import STOP_TIMEOUT_S, Daemon


def require_strace() -> None:
    """Skips the calling test where there is no strace, or where it may not trace."""
    tried = execute(require("strace"), "-f", "-o", "/dev/null", "true")
    if tried.returncode != 0:
        pytest.skip(f"strace: {tried.stderr.strip()}")


def traced_process(node: Daemon) -> psutil.Process:
    """The daemon itself: what was started is strace."""
    (traced,) = psutil.Process(node.process.pid).children()
    return traced


def stop_traced(node: Daemon) -> int:
    """Stop a daemon under strace, which passes no signal on: its exit status."""
    traced_process(node).terminate()
    return node.process.wait(STOP_TIMEOUT_S)


@dataclass(frozen=True)
class Call:
    """One line of the trace: a call that returned. `thread` is who made it."""

    thread: str
    name: str
    arguments: str
    result: str


def calls(trace: Path) -> list[Call]:
    """In the order of their ends; strace writes one that another overtakes in two lines."""
    begun: dict[str, str] = {}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>")
            continue
        if text.startswith("<... "):
            text = begun.pop(thread, "") + text.partition("resumed>")[2]
        call, separator, result = text.rpartition(" = ")
        name, bracket, arguments = call.partition("(")
        if separator and bracket:
            found.append(Call(thread, name, arguments.strip().removesuffix(")").strip(), result))
    return found
