"""A steady load in processes of its own, while a test replaces the node that answers it.

Run as `python -m tests.support.upgrade_load udp|tcp|wallets HOST PORT`. Asks until SIGTERM, then
waits for what is outstanding. Nothing is asked twice; a request without an answer in time is lost,
and so is one whose connection is refused or ends early. Requests are due at fixed moments, whatever
became of those before (but for persistent connections and wallets, which ask one after the other),
and latency counts from the moment that they were due. Prints one JSON object.
"""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

from raida_uring.client import AsyncClient, Coin, Key, calls
from raida_uring.errors import RaidaError
from raida_uring.protocol import Status, layout, reply_bytes
from tests.support.coins import Coins
from tests.support.command_line import environment
from tests.support.handlers import DOZE, MIRROR, SLOW_DOZE
from tests.support.net import PATIENCE, RECEIVE_BUFFER_BYTES, Endpoint
from tests.support.upgrade_outcome import Outcome
from tests.support.upgrade_wallets import Load, WrongAnswerError
from tests.support.wire import (
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    VERSION_COMMAND,
    challenge_field,
    challenge_of,
    reply_payload,
    request,
    status,
)

ANSWER_TIMEOUT_S: Final = 15.0 * PATIENCE  # a drain's ten seconds and a margin
UDP_PER_S: Final = 2200 / PATIENCE  # an emulated node answers that much less
UDP_DOZES_PER_S: Final = 1  # each of the ordinary lane and of the slow one
UDP_SOCKETS: Final = 8
TCP_CONNECTS_PER_S: Final = 220 / PATIENCE
PERSISTENT: Final = 20
PERSISTENT_PAUSE_S: Final = 0.15 * PATIENCE
PERSISTENT_DOZING: Final = 1  # of each lane
DOZING_PAUSE_S: Final = 0.5
ENCRYPTED_PER_S: Final = 20 / PATIENCE
WALLET_PAUSE_S: Final = 0.04 * PATIENCE
TICKETS_PER_S: Final = 1.2  # for a node keeps 512 tickets, five minutes each


def fault_of(reply: bytes, payload: bytes) -> str | None:
    """None if it is the answer with `payload`."""
    if status(reply) != Status.SUCCESS:
        return f"status {status(reply)}"
    return None if reply_payload(reply) == payload else "another payload"


def expected_version(endpoint: Endpoint) -> bytes:
    """What the version command answers, asked before anything is counted."""
    with socket.create_connection(endpoint, ANSWER_TIMEOUT_S) as one:
        one.sendall(request(VERSION_COMMAND))
        return reply_payload(one.recv(65536))


# --- UDP --------------------------------------------------------------------------------------


class UdpLoad:
    """One thread, several sockets."""

    def __init__(self, endpoint: Endpoint) -> None:
        version = expected_version(endpoint)
        self._kinds = cycle(
            [(MIRROR, None), (ECHO_COMMAND, b""), (MIRROR, None), (VERSION_COMMAND, version)]
        )
        self._poller = select.epoll()
        self._sockets = [self._open(endpoint) for _ in range(UDP_SOCKETS)]
        self._outstanding: dict[bytes, tuple[str, float, bytes]] = {}
        self.outcomes = {"udp": Outcome(), "udp second-long": Outcome()}
        self.stopping = False

    def _open(self, endpoint: Endpoint) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        one.connect(endpoint)
        one.setblocking(False)
        self._poller.register(one, select.EPOLLIN)
        return one

    def run(self) -> None:
        by_number = {one.fileno(): one for one in self._sockets}
        senders = cycle(self._sockets)
        dozes = cycle([DOZE, SLOW_DOZE])
        due_s = doze_due_s = time.monotonic()
        while not self.stopping:
            now_s = time.monotonic()
            while due_s <= now_s:
                self._ask(next(senders), "udp", due_s, *next(self._kinds))
                due_s += 1 / UDP_PER_S
            while doze_due_s <= now_s:
                self._ask(next(senders), "udp second-long", doze_due_s, next(dozes), None)
                doze_due_s += 0.5 / UDP_DOZES_PER_S
            self._take(by_number, 0.001)
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while self._outstanding and time.monotonic() < end_s:
            self._take(by_number, 0.1)
        for kind, _, _ in self._outstanding.values():
            self.outcomes[kind].lose("no answer")

    def _ask(
        self,
        sender: socket.socket,
        kind: str,
        due_s: float,
        command: tuple[int, int],
        payload: bytes | None,
    ) -> None:
        sent = os.urandom(24) if payload is None else b""
        data = request(command, sent)
        self._outstanding[challenge_of(data)] = kind, due_s, sent if payload is None else payload
        self.outcomes[kind].sent += 1
        try:
            sender.send(data)
        except OSError as error:  # no socket has the port, or this one is full
            del self._outstanding[challenge_of(data)]
            self.outcomes[kind].lose(str(error))

    def _take(self, by_number: dict[int, socket.socket], timeout_s: float) -> None:
        for number, _ in self._poller.poll(timeout_s):
            while True:
                try:
                    reply = by_number[number].recv(65536)
                except BlockingIOError:
                    break
                except OSError as error:  # an ICMP refusal: a request of this socket was refused
                    self.outcomes["udp"].faults[f"refused: {error}"] += 1
                    break
                asked = self._outstanding.pop(challenge_field(reply), None)
                if asked is None:
                    self.outcomes["udp"].settle(0.0, "an answer to nothing that was asked")
                    continue
                kind, due_s, payload = asked
                self.outcomes[kind].settle(due_s, fault_of(reply, payload))


# --- TCP --------------------------------------------------------------------------------------


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(layout.HEADER_SMALL)
    return header + await reader.readexactly(reply_bytes(header) - len(header))


class TcpLoad:
    """Connections for one request each, persistent ones, and encrypted requests over UDP."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.outcomes = {
            kind: Outcome()
            for kind in ("tcp connect", "tcp persistent", "tcp second-long", "encrypted")
        }
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._paced("tcp connect", TCP_CONNECTS_PER_S, self._connect))
            tasks.create_task(self._paced("encrypted", ENCRYPTED_PER_S, self._encrypted))
            for number in range(PERSISTENT):
                pause_s = PERSISTENT_PAUSE_S if number % 2 else 2 * PERSISTENT_PAUSE_S
                tasks.create_task(self._persist("tcp persistent", MIRROR, pause_s))
            for _ in range(PERSISTENT_DOZING):
                tasks.create_task(self._persist("tcp second-long", DOZE, DOZING_PAUSE_S))
                tasks.create_task(self._persist("tcp second-long", SLOW_DOZE, DOZING_PAUSE_S))

    async def _paced(
        self, kind: str, per_s: float, ask: Callable[[], Awaitable[str | None]]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            due_s = time.monotonic()
            while not self._stopping.is_set():
                while due_s <= time.monotonic():
                    tasks.create_task(self._settled(kind, due_s, ask))
                    due_s += 1 / per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _settled(
        self, kind: str, due_s: float, ask: Callable[[], Awaitable[str | None]]
    ) -> bool:
        outcome = self.outcomes[kind]
        outcome.sent += 1
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                fault = await ask()
        except (OSError, EOFError, RaidaError) as error:
            outcome.lose(f"{type(error).__name__} {error}")
            return False
        outcome.settle(due_s, fault)
        return True

    async def _connect(self) -> str | None:
        payload = os.urandom(24)
        reader, writer = await asyncio.open_connection(*self._endpoint)
        try:
            writer.write(request(MIRROR, payload))
            return fault_of(await read_reply(reader), payload)
        finally:
            writer.transport.abort()

    async def _persist(self, kind: str, command: tuple[int, int], pause_s: float) -> None:
        reader, writer = await asyncio.open_connection(*self._endpoint)

        async def ask() -> str | None:
            payload = os.urandom(24)
            writer.write(request(command, payload))
            return fault_of(await read_reply(reader), payload)

        while not self._stopping.is_set():
            if not await self._settled(kind, time.monotonic(), ask):
                break
            await asyncio.sleep(pause_s)
        writer.transport.abort()

    async def _encrypted(self) -> str | None:
        an = Coins().an(0, 8) or b""
        asked = AsyncClient(
            *self._endpoint,
            raida_id=RAIDA_ID,
            coin_id=COIN_ID,
            key=Key(1, (Coin(0, 8, an),)),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        answer = await asked.ask(calls.detect([Coin(0, 8, an)]))
        return None if answer.status == Status.ALL_PASS else f"status {answer.status}"


# --- wallets ----------------------------------------------------------------------------------


class WalletLoad:
    """Changes, reads and tickets."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._load = Load(
            endpoint, again=False, pause_s=WALLET_PAUSE_S, tickets_per_s=TICKETS_PER_S
        )
        self.outcomes = self._load.outcomes

    async def run(self) -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        try:
            await self._load.run(stopping)
        except* WrongAnswerError as wrong:
            print(*wrong.exceptions, sep="\n", file=sys.stderr)
            await stopping.wait()


# --- as a process -----------------------------------------------------------------------------


class LoadProcess:
    """This module at work. Thread: the one that made it."""

    def __init__(self, transport: str, endpoint: Endpoint) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, transport, *map(str, endpoint)],
            env=environment(),
            stdout=subprocess.PIPE,
        )

    def finish(self) -> dict[str, dict[str, object]]:
        """Stop asking; what became of all requests, the fields of Outcome by kind."""
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate(timeout=3 * ANSWER_TIMEOUT_S)
        assert self._process.returncode == 0
        outcomes: dict[str, dict[str, object]] = json.loads(said)
        return outcomes

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    transport, host, port = sys.argv[1:]
    load: UdpLoad | TcpLoad | WalletLoad
    if transport == "udp":
        load = UdpLoad((host, int(port)))
        signal.signal(signal.SIGTERM, lambda *_: setattr(load, "stopping", True))
        load.run()
    else:
        load = (TcpLoad if transport == "tcp" else WalletLoad)((host, int(port)))
        asyncio.run(load.run())
    for one in load.outcomes.values():
        assert one.sent + one.faults["an answer to nothing that was asked"] == (
            one.answered + one.wrong + one.lost
        )
    json.dump(
        {
            kind: {
                "sent": one.sent,
                "answered": one.answered,
                "wrong": one.wrong,
                "lost": one.lost,
                "faults": one.faults,
                "statuses": one.statuses,
                "due_s": [round(value, 4) for value in one.due_s],
                "latency_ms": [round(value * 1000, 3) for value in one.latency_s],
            }
            for kind, one in sorted(load.outcomes.items())
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
