"""TCP clients by the thousand, in a process of their own: each needs a descriptor, and so does its
other end in the node.

Run as `python -m tests.support.load_client HOST PORT CONNECTIONS CONCURRENCY`. When CONCURRENCY
equals CONNECTIONS, all are connected first and then all send at once. Prints one JSON object.
"""

import errno
import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

from tests.support.command_line import output_of
from tests.support.net import PATIENCE, Endpoint
from tests.support.wire import ECHO_COMMAND, VERSION_COMMAND, answers, request

CONNECTING_MAX = 512  # well below the listener's backlog: a dropped SYN costs a second
SOURCE_HOSTS = [f"127.0.0.{last}" for last in range(2, 12)]  # one source has only 28,000 ports
STALL_TIMEOUT_S = 20.0 * PATIENCE

# Linux's number, not in the socket module before Python 3.12: choose the port at connect, by the
# whole 4-tuple, instead of at bind, where one port serves only one connection.
IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(slots=True)
class Outcome:
    """How the connections ended."""

    answered: int = 0  # the right answer, then the close
    wrong: int = 0  # another answer, or one cut short
    failed: int = 0  # refused, or reset before any answer
    stalled: int = 0  # neither answered nor closed when nothing moved any more


class Load:
    """Opens `total` connections, at most `concurrency` at a time; single thread."""

    def __init__(self, endpoint: Endpoint, total: int, concurrency: int) -> None:
        self._endpoint = endpoint
        self._total = total
        self._concurrency = concurrency
        self._all_at_once = total == concurrency
        self._started = 0
        self._connecting: dict[int, socket.socket] = {}
        self._connected: deque[socket.socket] = deque()
        self._waiting: dict[int, tuple[socket.socket, bytes, bytearray]] = {}
        self._poller = select.epoll()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        progress_at = time.monotonic()
        while self._started < self._total or self._connecting or self._waiting or self._connected:
            self._open_more()
            self._send_to_connected()
            events = self._poller.poll(0.5)
            for descriptor, _ in events:
                if descriptor in self._connecting:
                    self._finish_connect(descriptor)
                else:
                    self._read(descriptor)
            if events:
                progress_at = time.monotonic()
            elif time.monotonic() - progress_at > STALL_TIMEOUT_S:
                self.outcome.stalled = len(self._connecting) + len(self._waiting)
                break
        return self.outcome

    def _open_more(self) -> None:
        open_count = len(self._connecting) + len(self._connected) + len(self._waiting)
        room = min(self._concurrency - open_count, CONNECTING_MAX - len(self._connecting))
        for _ in range(min(room, self._total - self._started)):
            client = socket.socket()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((SOURCE_HOSTS[self._started % len(SOURCE_HOSTS)], 0))
            self._started += 1
            code = client.connect_ex(self._endpoint)
            if code not in (0, errno.EINPROGRESS):
                self._end(client, "failed")
                continue
            self._connecting[client.fileno()] = client
            self._poller.register(client, select.EPOLLOUT)

    def _finish_connect(self, descriptor: int) -> None:
        client = self._connecting.pop(descriptor)
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            self._end(client, "failed")
            return
        self._poller.modify(client, 0)
        self._connected.append(client)

    def _send_to_connected(self) -> None:
        if self._all_at_once and (self._started < self._total or self._connecting):
            return
        while self._connected:
            client = self._connected.popleft()
            index = client.fileno()
            command = VERSION_COMMAND if index % 4 == 0 else ECHO_COMMAND
            sent = request(command, echo=index)
            try:
                client.send(sent)  # 50 bytes into an empty buffer: whole or an error
            except OSError:
                self._end(client, "failed")
                continue
            self._waiting[index] = (client, sent, bytearray())
            self._poller.modify(client, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        if descriptor not in self._waiting:  # reset while it waited for the others to connect
            client = next(c for c in self._connected if c.fileno() == descriptor)
            self._connected.remove(client)
            self._end(client, "failed")
            return
        client, sent, reply = self._waiting[descriptor]
        try:
            piece = client.recv(4096)
        except OSError:
            piece = b""
        if piece:
            reply += piece
            return
        del self._waiting[descriptor]
        if not reply:
            self._end(client, "failed")
            return
        self._end(client, "answered" if answers(bytes(reply), sent) else "wrong")

    def _end(self, client: socket.socket, how: str) -> None:
        setattr(self.outcome, how, getattr(self.outcome, how) + 1)
        client.close()


def run_load(endpoint: Endpoint, connections: int, concurrency: int) -> dict[str, int]:
    """Run this module in a process of its own; its Outcome as a dict."""
    told = output_of(sys.executable, "-m", __name__, *endpoint, connections, concurrency)
    outcome: dict[str, int] = json.loads(told)
    return outcome


def main() -> None:
    host, port, connections, concurrency = sys.argv[1:]
    outcome = Load((host, int(port)), int(connections), int(concurrency)).run()
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
