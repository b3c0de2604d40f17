"""Replacing a running node by its successor without losing a request.

The node starts its successor with the same sockets, waits until the successor serves, and leaves.
From then on the successor receives all requests; the node answers those that it has received, and
passes on connections that are between two requests. If the successor does not come up, nothing has
changed; if it ends before the node has left, the node serves again.

Both talk over a Unix socket of sequenced packets. Successor to predecessor: `receiving` right
before it receives from the sockets, `ready` when it serves, `failed` with a reason. Predecessor to
successor: `released` once the admin socket and the HTTP port are free, connections (the listener's
number and a descriptor), and at the end its counters as JSON; then it closes the socket. Thread:
stated at each class.

This module imports neither configuration nor data plane: a successor that cannot load them must be
able to say so.
"""

import array
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from raida_uring.errors import RaidaError, StartError
from raida_uring.log import events
from raida_uring.threads import Vital

ENVIRONMENT: Final = "RAIDA_URING_TAKEOVER"
END_TIMEOUT_S: Final = 1.0  # for a dismissed successor that has nothing to answer to end
SEND_TIMEOUT_S: Final = 5.0  # for a successor that does not read
RETRY_S: Final = 0.001  # between two tries to give the loop a connection

_RECEIVING: Final = b"receiving"
_READY: Final = b"ready"
_FAILED: Final = b"failed "
_RELEASED: Final = b"released"
_MESSAGE_BYTES_MAX: Final = 1 << 16
_REASON_BYTES_MAX: Final = 1000
_CHANNEL_BYTES: Final = 1 << 20


class Successor:
    """The process that is to take over. Thread: the predecessor's main one; nothing here waits."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", channel: socket.socket, timeout_s: float
    ) -> None:
        self._process = process
        self.channel = channel
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._abandoned_at = self._drain_timeout_s = 0.0
        self._receiving = self._ready = False
        self._reason = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs, then how it ended: its exit status, or a signal's number negated."""
        return self._process.poll()

    @classmethod
    def start(
        cls,
        sockets: Sequence[tuple[str, int, int, int]],
        owner: int,
        memory: int,
        *,
        shared: bool,
        timeout_s: float,
    ) -> "Successor":
        """Start this program again, as it was started.

        sockets: host, port, and the descriptors of the UDP and TCP socket of each address. owner:
        descriptor of the store's lock, memory: of its coins, -1 without a store. shared: the
        service manager has the sockets, too. timeout_s: it must serve within. Raises StartError
        when it cannot be started.
        """
        if os.getpid() == 1:
            raise StartError(
                "this node is process 1 of its container, and its end would end the successor: "
                "replace the container instead"
            )
        descriptors = [fd for one in sockets for fd in one[2:]]
        descriptors += [fd for fd in (owner, memory) if fd >= 0]
        handed: dict[str, object] = {
            "sockets": list(sockets),
            "owner": owner,
            "memory": memory,
            "shared": shared,
        }
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, contextlib.ExitStack() as undone:
                undone.enter_context(ours)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
                ours.settimeout(SEND_TIMEOUT_S)
                handed["channel"] = theirs.fileno()
                process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    pass_fds=[theirs.fileno(), *descriptors],
                    env={**os.environ, ENVIRONMENT: json.dumps(handed)},
                )
                undone.pop_all()
        except OSError as error:
            raise StartError(f"cannot start the successor: {error.strerror}") from error
        return cls(process, ours, timeout_s)

    def serves(self) -> bool:
        """Whether it has come up. Raises StartError once it is certain that it does not."""
        status = self.status  # before receiving: what it said last is seen then
        self._listen()
        if status is not None:
            reason = f": {self._reason}" if self._reason else ""
            raise StartError(f"the successor {how_ended(status)} before it served{reason}")
        if self._ready and not self._reason:
            return True
        if time.monotonic() >= self._deadline:
            raise StartError(
                f"the successor does not serve after {self._timeout_s:.0f} s "
                "([upgrade] start_timeout_s)"
            )
        return False

    def _listen(self) -> None:
        """Receive what it has said."""
        heard = select.poll()  # not select(), which ends at descriptor 1023
        heard.register(self.channel, select.POLLIN)
        while heard.poll(0):
            try:
                said = self.channel.recv(_MESSAGE_BYTES_MAX)
            except OSError:
                return
            if not said:
                return
            self._receiving |= said == _RECEIVING
            self._ready |= said == _READY
            if said.startswith(_FAILED):
                self._reason = said[len(_FAILED) :].decode(errors="replace")

    def abandon(self, drain_timeout_s: float) -> None:
        """Dismiss it: it answers what it may have received already, and ends."""
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)
        self._abandoned_at = time.monotonic()
        self._drain_timeout_s = drain_timeout_s

    def gone(self, *, kill: bool = False) -> bool:
        """After abandon(): whether it has ended. It is killed when it is late. kill: at once."""
        if self.status is None:
            self._listen()
            patience_s = END_TIMEOUT_S + (self._drain_timeout_s if self._receiving else 0)
            if time.monotonic() < self._abandoned_at + patience_s and not kill:
                return False
            self._process.kill()
            self._process.wait()
        self.channel.close()
        return True

    def release(self) -> None:
        """Have it open what only one process can have open."""
        with contextlib.suppress(OSError):  # it is gone: `status` tells
            self.channel.send(_RELEASED)

    def finish(self, counters: dict[str, int]) -> None:
        """This node has answered everything: pass on its counters."""
        try:
            self.channel.send(json.dumps(counters).encode())
        except OSError as error:
            events.COUNTERS_LOST.log(error=error.strerror or error)
        self.channel.close()


def how_ended(status: int) -> str:
    """In words, how a process ended whose exit status (or signal's number negated) that is."""
    if status < 0:
        return f"was killed by {signal.strsignal(-status) or 'signal'} ({-status})"
    return f"ended with status {status}"


def tell_failure(reason: str) -> None:
    """Tell the predecessor, if there is one that waits, why this process will not serve."""
    try:
        channel = int(json.loads(os.environ[ENVIRONMENT])["channel"])
        with socket.socket(fileno=os.dup(channel)) as duplicate:
            duplicate.send(_FAILED + reason.encode()[:_REASON_BYTES_MAX], socket.MSG_DONTWAIT)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, OSError):
        pass  # no predecessor waits


class Takeover:
    """What a successor gets from its predecessor. Thread: begin() starts one, which sets attributes
    that any may read."""

    def __init__(
        self,
        channel: socket.socket,
        sockets: Sequence[tuple[str, int, int, int]],
        owner: int,
        memory: int,
        *,
        shared: bool,
    ) -> None:
        """As Successor.start(); memory: -1 also from one whose coins are not in memory."""
        self._channel = channel
        self.shared = shared
        self.hosts = [host for host, _, _, _ in sockets]  # by the predecessor's listener number
        self.port = sockets[0][1] if sockets else 0
        self.descriptors = {host: (udp, tcp) for host, _, udp, tcp in sockets}
        self.owner = owner
        self.memory = memory
        self.released = False  # the admin socket and the HTTP port are free, all requests come here
        self.gone = False
        self._thread: Vital | None = None
        self.adopted = 0  # connections that it has passed on

    @classmethod
    def from_environment(cls) -> "Takeover | None":
        """None without a predecessor. Raises StartError if the variable makes no sense."""
        text = os.environ.get(ENVIRONMENT)  # until begin(), so that tell_failure() finds it
        if text is None:
            return None
        try:
            handed = json.loads(text)
            sockets = [
                (str(host), int(port), int(udp), int(tcp))
                for host, port, udp, tcp in handed["sockets"]
            ]
            owner, shared = int(handed["owner"]), bool(handed["shared"])
            memory = int(handed.get("memory", -1))
            channel = socket.socket(fileno=int(handed["channel"]))  # last: tell_failure() needs it
            channel.set_inheritable(False)
            return cls(channel, sockets, owner, memory, shared=shared)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
            raise StartError(f"{ENVIRONMENT} is not what a predecessor sets: {error}") from error

    def tell_receiving(self) -> None:
        """Tell the predecessor that from now on this node receives from the sockets."""
        with contextlib.suppress(OSError):  # begin() hears of it
            self._channel.send(_RECEIVING)

    def withdraw(self, why: str) -> None:
        """This node stops. A predecessor that has not heard yet that it serves goes on."""
        if not self.released:
            with contextlib.suppress(OSError):
                self._channel.send(_FAILED + why.encode())

    def begin(
        self,
        adopt: Callable[[int, int], None],
        carry: Callable[[dict[str, int]], None],
        changed: Callable[[], None],
    ) -> None:
        """Tell the predecessor that this node serves, and receive what it passes on.

        adopt: gets a listener's number and a connection's descriptor. carry: gets the counters.
        changed: called when `released` or `gone` has become true. All on the thread `takeover`.
        """
        self._channel.setblocking(True)
        self._adopt, self._carry, self._changed = adopt, carry, changed
        self._thread = Vital(target=self._run, name="takeover", daemon=True)
        self._thread.start()  # first: without it this node must not be taken for ready
        os.environ.pop(ENVIRONMENT, None)
        try:
            self._channel.send(_READY)
        except OSError:
            events.PREDECESSOR_GONE.log()

    def end(self) -> None:
        """Once `gone` is true: end the thread."""
        if self._thread is not None:
            self._thread.join()
        events.TOOK_OVER.log(connections=self.adopted)

    def _run(self) -> None:
        with self._channel:
            while True:
                descriptors = array.array("i")
                try:
                    data, ancillary, flags, _ = self._channel.recvmsg(
                        _MESSAGE_BYTES_MAX, socket.CMSG_SPACE(descriptors.itemsize)
                    )
                except ConnectionResetError:
                    continue  # it left a message unread; what it has sent can still be received
                except OSError:
                    break
                if not data:
                    break
                if flags & socket.MSG_CTRUNC:
                    events.CONNECTION_NOT_TAKEN.log()
                    continue
                for _, _, content in ancillary:
                    descriptors.frombytes(content)
                for fd in descriptors:
                    self.adopted += _adopt(self._adopt, data[0], fd)
                if data == _RELEASED:
                    self.released = True
                    self._changed()
                elif not descriptors:
                    _carry(self._carry, data)
        self.gone = True
        self._changed()


def _carry(carry: Callable[[dict[str, int]], None], data: bytes) -> None:
    try:
        carry(json.loads(data))
    except (ValueError, TypeError, AttributeError, OverflowError):
        events.COUNTERS_UNKNOWN.log()


def _adopt(adopt: Callable[[int, int], None], listener: int, fd: int) -> bool:
    os.set_inheritable(fd, False)
    while True:
        try:
            adopt(listener, fd)
            return True
        except RaidaError as error:
            if getattr(error, "number", None) != errno.EAGAIN:
                os.close(fd)
                return False
            time.sleep(RETRY_S)
