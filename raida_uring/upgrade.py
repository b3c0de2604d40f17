"""Replacing a running node by its successor without losing a request.

The node starts its successor with the same sockets, waits until that serves, and then leaves: what
arrives is the successor's, requests in hand are answered here, connections between two requests are
passed on. If the successor does not come up, nothing has changed.

They talk over a Unix socket of sequenced packets. Successor to predecessor: `ready`. Predecessor to
successor: `released` once the admin socket and the HTTP port are free, connections (the listener's
number and a descriptor), at the end its counters as JSON; then it closes the socket. Thread: named
at each class.
"""

import array
import contextlib
import errno
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from raida_uring.errors import EngineError, StartError
from raida_uring.log import event

ENVIRONMENT: Final = "RAIDA_URING_TAKEOVER"
START_TIMEOUT_S: Final = 60.0  # for the successor to serve; a large store has trees to build
MEANWHILE_S: Final = 0.2  # between two looks at everything else while it starts
RETRY_S: Final = 0.001  # between two tries to give the loop a connection

_READY: Final = b"ready"
_RELEASED: Final = b"released"
_MESSAGE_BYTES_MAX: Final = 1 << 16
_CHANNEL_BYTES: Final = 1 << 20

logger = logging.getLogger("raida_uring.upgrade")


class Successor:
    """The process that is to take over. Thread: the predecessor's main thread."""

    def __init__(self, process: "subprocess.Popen[bytes]", channel: socket.socket) -> None:
        self._process = process
        self.channel = channel

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    def start(
        cls,
        sockets: Sequence[tuple[str, int, int, int]],
        owner: int,
        *,
        shared: bool,
        timeout_s: float,
        meanwhile: Callable[[], None],
    ) -> "Successor":
        """Start this program again, as it was started, and return once it serves.

        sockets: host, port, and the descriptors of the UDP and TCP socket of each address. owner:
        descriptor of the store's lock, -1 without a store. shared: the service manager has the
        sockets, too. meanwhile: called often while it starts; may raise StartError to give it up.
        Raises StartError when it does not serve within `timeout_s`; it has ended then.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
            descriptors = [theirs.fileno(), *(fd for one in sockets for fd in one[2:])]
            descriptors += [owner] if owner >= 0 else []
            handed = {
                "channel": theirs.fileno(),
                "sockets": list(sockets),
                "owner": owner,
                "shared": shared,
            }
            try:
                process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    pass_fds=descriptors,
                    env={**os.environ, ENVIRONMENT: json.dumps(handed)},
                )
            except OSError as error:
                ours.close()
                raise StartError(f"cannot start the successor: {error.strerror}") from error
        successor = cls(process, ours)
        try:
            successor._await_ready(timeout_s, meanwhile)
        except StartError:
            successor.abandon()
            raise
        return successor

    def _await_ready(self, timeout_s: float, meanwhile: Callable[[], None]) -> None:
        deadline = time.monotonic() + timeout_s
        readable: list[socket.socket] = []
        while not readable and time.monotonic() < deadline:
            meanwhile()
            readable, _, _ = select.select([self.channel], [], [], MEANWHILE_S)
        if readable and self.channel.recv(len(_READY)) == _READY:
            return
        if not readable:
            raise StartError(f"the successor does not serve after {timeout_s:.0f} s")
        status = self._process.wait()
        raise StartError(f"the successor ended with status {status} before it served")

    def abandon(self) -> None:
        """It is not wanted any more."""
        self.channel.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """Let it open what only one process can have open."""
        with contextlib.suppress(OSError):  # it is gone: nobody needs to know
            self.channel.send(_RELEASED)

    def finish(self, counters: dict[str, int]) -> None:
        """This node has answered everything it had: let the successor know what it counted."""
        try:
            self.channel.send(json.dumps(counters).encode())
        except OSError as error:
            logger.warning(
                "the successor does not have this node's counters: %s",
                error.strerror,
                extra=event("counters_lost"),
            )
        self.channel.close()


class Inherited:
    """Listening sockets that this process was started with. Thread: control."""

    def __init__(self, port: int, sockets: dict[str, tuple[int, int]]) -> None:
        """sockets: descriptors of the UDP and TCP socket by host; all on `port`."""
        self.port = port
        self._sockets = sockets
        # Has whoever else holds them close them, too, soon after it returns; None: it does not.
        self.let_go: Callable[[], None] | None = None
        self.releasing = False  # addresses are in use that will be free in a moment

    def take(self, host: str) -> tuple[socket.socket, socket.socket] | None:
        """The UDP and TCP socket of an address, None when there is none of it."""
        descriptors = self._sockets.pop(host, None)
        if descriptors is None:
            return None
        udp, tcp = (socket.socket(fileno=fd) for fd in descriptors)
        for one in (udp, tcp):
            one.set_inheritable(False)
            one.setblocking(False)
        return udp, tcp

    def close_all_but(self, port: int, hosts: Collection[str]) -> None:
        """Close the sockets of addresses that are not served. port: 0 is any."""
        unserved = [host for host in self._sockets if port not in (0, self.port)]
        unserved = unserved or [host for host in self._sockets if host not in hosts]
        for host in unserved:
            for fd in self._sockets.pop(host):
                os.close(fd)
        if unserved and self.let_go is not None:
            self.let_go()
            self.releasing = True


class Takeover:
    """What a successor got from its predecessor. Thread: begin() starts one of its own."""

    def __init__(
        self, channel: socket.socket, sockets: list[list[object]], owner: int, *, shared: bool
    ) -> None:
        self._channel = channel
        self.shared = shared
        self.sockets = Inherited(
            int(str(sockets[0][1])) if sockets else 0,
            {str(host): (int(str(udp)), int(str(tcp))) for host, _, udp, tcp in sockets},
        )
        self.owner = owner

    @classmethod
    def from_environment(cls) -> "Takeover | None":
        """None when there is nobody to succeed. Raises StartError when it makes no sense."""
        text = os.environ.pop(ENVIRONMENT, None)
        if text is None:
            return None
        try:
            handed = json.loads(text)
            channel = socket.socket(fileno=int(handed["channel"]))
            channel.set_inheritable(False)
            return cls(
                channel, handed["sockets"], int(handed["owner"]), shared=bool(handed["shared"])
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StartError(f"{ENVIRONMENT} is not what a predecessor sets: {error}") from error

    def begin(
        self,
        adopt: Callable[[int, int], None],
        carry: Callable[[dict[str, int]], None],
        released: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        """Tell the predecessor that this node serves, and take what it passes on.

        adopt: takes a listener's number and a connection's descriptor. carry: takes the counters.
        released: called once admin socket and HTTP port are free, done: once the predecessor is
        gone. All on a thread of their own.
        """
        self._channel.setblocking(True)
        try:
            self._channel.send(_READY)
        except OSError:
            logger.warning("the predecessor is gone already", extra=event("predecessor_gone"))
        threading.Thread(
            target=self._run, args=(adopt, carry, released, done), name="takeover", daemon=True
        ).start()

    def _run(
        self,
        adopt: Callable[[int, int], None],
        carry: Callable[[dict[str, int]], None],
        released: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        taken, open_to_operators = 0, False
        with self._channel:
            while True:
                descriptors = array.array("i")
                try:
                    data, ancillary, _, _ = self._channel.recvmsg(
                        _MESSAGE_BYTES_MAX, socket.CMSG_SPACE(descriptors.itemsize)
                    )
                except OSError:
                    break
                if not data:
                    break
                for _, _, content in ancillary:
                    descriptors.frombytes(content)
                for fd in descriptors:
                    taken += _adopt(adopt, data[0], fd)
                if data == _RELEASED:
                    open_to_operators = True
                    released()
                elif not descriptors:
                    with contextlib.suppress(ValueError, TypeError):  # another version's
                        carry(json.loads(data))
        if not open_to_operators:  # it was killed
            released()
        logger.info(
            "took over: %d connections passed on, the predecessor is gone",
            taken,
            extra=event("took_over", connections=taken),
        )
        done()


def _adopt(adopt: Callable[[int, int], None], listener: int, fd: int) -> bool:
    os.set_inheritable(fd, False)
    while True:
        try:
            adopt(listener, fd)
            return True
        except EngineError as error:
            if error.number != errno.EAGAIN:
                os.close(fd)
                return False
            time.sleep(RETRY_S)
