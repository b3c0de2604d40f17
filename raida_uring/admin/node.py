"""What the admin socket can ask of a node, so that this package does not know the node's own.

Pure. `node/daemon.py` is the `Node`, `node/server.py` the `Served`. Thread: any for every function.
"""

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raida_uring.config import Config, Difference
from raida_uring.errors import StartError
from raida_uring.ffi import native
from raida_uring.observe.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The outcome of a reload. applied: in effect. restart: wait for the next start."""

    applied: list[Difference]
    restart: list[Difference]


class Served(Protocol):
    """The part of a node that serves requests."""

    @property
    def config(self) -> Config: ...
    @property
    def phase(self) -> str: ...
    @property
    def endpoints(self) -> list[tuple[str, int]]: ...

    def counters(self) -> dict[str, int]: ...
    def connections(self, first: int = 0) -> tuple[list[native.Connection], int]: ...
    def limited(self) -> tuple[list[native.Limited], int]: ...
    def observe(self) -> Snapshot: ...
    def peers(self, count: int) -> tuple[float, list[tuple[str, float]]]: ...
    def set_log_level(self, level: str) -> None: ...


class Node(Protocol):
    """The process as a whole."""

    @property
    def file(self) -> Path | None: ...
    @property
    def server(self) -> Served: ...

    def begin_drain(self, drain_timeout_ms: int) -> None: ...
    def begin_upgrade(self) -> "queue.SimpleQueue[int | StartError]": ...
    def reload(self) -> Reloaded: ...
