"""Handlers the tests register through `[handlers] modules`, all in the empty group 5.

They run in worker threads of the node under test. In an in-process node they share this module
with the test, which steers them through `gate` and reads `kept`.
"""

import errno
import json
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raida_uring.handlers import Reply, Request, command
from tests.support.confine import refuse_flushes, refuse_waiting

GROUP = 5
BLOB = (GROUP, 200)
HOLD = (GROUP, 201)
SLOW_HOLD = (GROUP, 202)
RAISE = (GROUP, 203)
WRONG_TYPE = (GROUP, 204)
DESCRIBE = (GROUP, 205)
MIRROR = (GROUP, 206)
STATUS = (GROUP, 207)
KEEP = (GROUP, 208)
NAP = (GROUP, 209)
HANG = (GROUP, 210)
RAISE_UNNAMED = (GROUP, 211)
UNTIL = (GROUP, 212)
SLOW_UNTIL = (GROUP, 213)
LOSE_SYNC = (GROUP, 214)
DOZE = (GROUP, 215)
SLOW_DOZE = (GROUP, 216)
LOSE_LOOP = (GROUP, 217)
BARE = (GROUP, 218)

HOLD_TIMEOUT_S = 60.0  # a test that dies with the gate closed must not keep its node for ever


class Gate:
    """Holds handlers while closed; open from the start.

    Any thread. `inside` counts the handlers that wait at this moment.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self.inside = 0

    def pass_through(self) -> None:
        """Called by handlers: returns once the gate is open."""
        with self._changed:
            self.inside += 1
            self._changed.wait_for(lambda: self._open, HOLD_TIMEOUT_S)
            self.inside -= 1

    def _set(self, is_open: bool) -> None:
        with self._changed:
            self._open = is_open
            self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closed for the body, open after it, whatever happens."""
        self._set(False)
        try:
            yield
        finally:
            self._set(True)


gate = Gate()
kept: list[bytes] = []  # payload objects that the KEEP handler was given


@command(group=GROUP, code=BLOB[1], public=False)
def blob(request: Request, node: object) -> Reply:
    """As many bytes as the payload's u32 asks for: 00 01 02 … FB 00 …"""
    return Reply(payload=blob_bytes(int.from_bytes(request.payload[:4])))


def blob_bytes(count: int) -> bytes:
    """What BLOB answers; a period of 251 shows a shift by any power of two."""
    return (bytes(range(251)) * (count // 251 + 1))[:count]


@command(group=GROUP, code=HOLD[1], public=False)
def hold(request: Request, node: object) -> Reply:
    """The payload, once the gate is open."""
    gate.pass_through()
    return Reply(payload=request.payload)


@command(group=GROUP, code=SLOW_HOLD[1], mode="slow", public=False)
def slow_hold(request: Request, node: object) -> Reply:
    """HOLD in the pool for slow commands."""
    gate.pass_through()
    return Reply(payload=request.payload)


@command(group=GROUP, code=RAISE[1], public=False)
def raise_error(request: Request, node: object) -> Reply:
    """Fails as a defective handler does."""
    raise RuntimeError("a test's handler raises on purpose")


def _raising_items() -> Iterator[int]:
    """The result of a handler with a stray `yield`: its body runs later, at an unexpected place."""
    yield 250
    raise LookupError("raised while the reply is looked at")


@dataclass
class Unhashable:
    """A handler may be any callable, without a name and without a hash."""

    calls: int = 0

    def __call__(self, _request: Request, _node: object) -> Reply:
        self.calls += 1
        raise RuntimeError("a test's handler raises on purpose")


command(group=GROUP, code=RAISE_UNNAMED[1])(Unhashable())


@command(group=GROUP, code=WRONG_TYPE[1], public=False)
def wrong_type(request: Request, node: object) -> Reply:
    """Returns what is not a Reply: by the payload's first byte, one of several mistakes."""
    mistakes: list[object] = [
        None,
        b"bytes",
        250,
        Reply(status=256),
        Reply(status=-1),
        Reply(payload="text"),  # type: ignore[arg-type]  # the mistake under test
        Reply(status="250"),  # type: ignore[arg-type]  # the mistake under test
        Reply(payload=array("I", [1, 2, 3])),  # type: ignore[arg-type]  # 3 items, 12 bytes
        _raising_items(),
        "xy",
        (250, b"plain"),
    ]
    return mistakes[request.payload[0]]  # type: ignore[return-value]  # the mistake under test


WRONG_TYPE_COUNT = 11


@command(group=GROUP, code=DESCRIBE[1], public=False)
def describe(request: Request, node: object) -> Reply:
    """What the handler was told about the request, as JSON."""
    host, port = request.peer[:2]
    return Reply(
        payload=json.dumps(
            {
                "group": request.group,
                "command": request.command,
                "payload": request.payload.hex(),
                "payload_type": type(request.payload).__name__,
                "encryption": request.encryption,
                "shard": request.shard,
                "transport": request.transport,
                "peer": [host, port],
            }
        ).encode()
    )


@command(group=GROUP, code=BARE[1])
def bare(request: Request, node: object) -> Reply:
    """What everybody knows."""
    return Reply(payload=b"known to everybody")


@command(group=GROUP, code=MIRROR[1], public=False)
def mirror(request: Request, node: object) -> Reply:
    """The payload."""
    return Reply(payload=request.payload)


@command(group=GROUP, code=STATUS[1], public=False)
def any_status(request: Request, node: object) -> Reply:
    """The status of the payload's first byte, without a body."""
    return Reply(status=request.payload[0])


@command(group=GROUP, code=KEEP[1], public=False)
def keep(request: Request, node: object) -> Reply:
    """Keeps a reference to its payload after it has returned."""
    kept.append(request.payload)
    return Reply()


@command(group=GROUP, code=LOSE_SYNC[1])
def lose_sync(request: Request, node: object) -> Reply:
    """From now on no flush of a file succeeds in this process. For daemons only."""
    refuse_flushes(errno.EIO)
    return Reply()


@command(group=GROUP, code=LOSE_LOOP[1])
def lose_loop(request: Request, node: object) -> Reply:
    """From now on the I/O thread of this process fails. For daemons only. No reply."""
    refuse_waiting(errno.EIO)
    return Reply()


@command(group=GROUP, code=NAP[1])
def nap(request: Request, node: object) -> Reply:
    """The payload, after 2 ms: a backlog builds up behind the workers."""
    time.sleep(0.002)  # the work itself, not a wait for anything
    return Reply(payload=request.payload)


@command(group=GROUP, code=SLOW_UNTIL[1], mode="slow")
@command(group=GROUP, code=UNTIL[1])
def until(request: Request, node: object) -> Reply:
    """Answered when the file that the payload names exists: for daemons, which share no gate."""
    deadline = time.monotonic() + HOLD_TIMEOUT_S
    while not Path(request.payload.decode()).exists() and time.monotonic() < deadline:
        time.sleep(0.005)  # between looks
    return Reply()


@command(group=GROUP, code=HANG[1])
def hang(request: Request, node: object) -> Reply:
    """Creates the file its payload names, so that a test outside sees it inside, and stays."""
    Path(request.payload.decode()).touch()
    threading.Event().wait(HOLD_TIMEOUT_S)
    return Reply()


@command(group=GROUP, code=SLOW_DOZE[1], mode="slow")
@command(group=GROUP, code=DOZE[1])
def doze(request: Request, node: object) -> Reply:
    """The payload, after a second."""
    time.sleep(1.0)  # the work itself, not a wait for anything
    return Reply(payload=request.payload)
