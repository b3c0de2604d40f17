"""`raida-uring ping`: echo requests to a node, like ping(8)."""

import itertools
import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer

from raida_uring import client, config, protocol
from raida_uring.cli.console import EXIT_NO_ANSWER, complain
from raida_uring.errors import ProtocolError, RaidaError
from raida_uring.protocol.layout import RAIDA_COUNT

_FROM_PORT: Final = "from the port"
_ASSUMED: Final = "assumed; --raida-id tells"


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: always a value that occurred."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _parse_endpoint(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\s\[\]:]+))(?::([0-9]{1,5}))?", text)
    if match is not None and match[3] is not None and not 1 <= int(match[3]) <= 65535:
        raise typer.BadParameter(
            f"{text!r}: the port must be from 1 to 65535", param_hint="HOST:PORT"
        )
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not HOST:PORT; an IPv6 address goes in brackets, as in [::1]:50000",
            param_hint="HOST:PORT",
        )
    return match[1] or match[2], int(match[3] or default_port)


def _choose_raida_id(given: int | None, port: int) -> tuple[int, str]:
    """Return the id to ask for, and where it comes from."""
    if given is not None:
        return given, "as told"
    if 0 <= port - config.FIRST_PORT < RAIDA_COUNT:
        return port - config.FIRST_PORT, _FROM_PORT
    return 0, _ASSUMED


def ping(
    endpoint: Annotated[
        str, typer.Argument(metavar="HOST[:PORT]", help="Node to ask; IPv6 as [::1]:50000.")
    ],
    tcp: Annotated[
        bool,
        typer.Option(
            "--tcp/--udp", help="Transport; UDP by default. TCP connects for every request."
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option("-c", "--count", metavar="N", min=1, help="Stop after N requests."),
    ] = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "-i", "--interval", metavar="S", min=0, max=3600, help="Seconds between requests."
        ),
    ] = 1.0,
    timeout_s: Annotated[
        float,
        typer.Option(
            "-W",
            "--timeout",
            metavar="S",
            min=0.001,
            max=3600,
            help="Seconds to wait for an answer, and for the addresses of a name.",
        ),
    ] = 2.0,
    raida_id: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=255,
            help="RAIDA asked; by default port - 50000, or who the node says it is.",
        ),
    ] = None,
    coin_id: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Coin to name.")] = 6,
    any_answer: Annotated[
        bool, typer.Option("--any-answer", help="A refusal counts, too: for health checks.")
    ] = False,
) -> int:
    """Send echo requests, like ping(8).

    One line for each answer, a summary at the end or at Ctrl-C. The port is 50000 plus the number
    of the RAIDA unless given; of a name, the first address where somebody is. Exits 0 if any echo
    came back, 1 if none did: no answer, or refusals only, as by another RAIDA than the one asked.
    """
    known = raida_id is not None and raida_id < RAIDA_COUNT
    host, port = _parse_endpoint(endpoint, config.FIRST_PORT + (raida_id or 0) * known)
    try:
        addresses = [text for _, text in client.resolve_all(host, port, timeout_s=timeout_s)]
    except OSError as error:
        raise RaidaError(f"{host}: {error.strerror or error}") from None
    asking = _Asking(
        addresses,
        port,
        "tcp" if tcp else "udp",
        timeout_s,
        coin_id,
        *_choose_raida_id(raida_id, port),
    )
    asking.introduce()
    next_s = time.monotonic()
    try:
        for sequence in itertools.count(1) if count is None else range(1, count + 1):
            # As ping(8): the interval is between sends, whatever an answer takes.
            time.sleep(max(0.0, next_s - time.monotonic()))  # to the next request
            next_s = time.monotonic() + interval_s
            print(asking.ask(sequence), flush=True)
    except KeyboardInterrupt:
        print()
    print(f"--- {asking.peer} ---\n{asking.summary()}", flush=True)
    if asking.refused:
        complain(f"{asking.peer} {asking.refusal}")
    counted = len(asking.round_trips_ms) - (0 if any_answer else asking.refused)
    return 0 if counted > 0 else EXIT_NO_ANSWER


@dataclass(slots=True)
class _Asking:
    """The node that ping asks, and the results so far."""

    addresses: list[str]  # the first is asked, and dropped if nothing listens there
    port: int
    transport: client.Transport
    timeout_s: float
    coin_id: int
    raida_id: int
    origin: str  # of the id, in words
    timeouts: int = 0
    errors: int = 0
    refused: int = 0  # answered, but not with an echo
    refusal: str = ""  # the last of them, in words
    round_trips_ms: list[float] = field(default_factory=list)

    @property
    def peer(self) -> str:
        return client.format_endpoint(self.addresses[0], self.port)

    def introduce(self) -> None:
        over = self.transport.upper()
        print(f"PING {self.peer} over {over}, RAIDA {self.raida_id} ({self.origin})", flush=True)

    def ask(self, sequence: int) -> str:
        """Make one exchange, count it, and return its line.

        The first exchange finds the address of a name at which a node listens, and that node's
        RAIDA id unless it was given.
        """
        found = self._exchange(sequence)
        while self._is_nobody_there(found):
            print(f"{self.peer}: {_reason_of(found)}", flush=True)
            del self.addresses[0]
            self.introduce()
            found = self._exchange(sequence)
        if isinstance(found, client.Exchange) and self._is_another(found.reply):
            self.raida_id, self.origin = found.reply.raida_id, "as it says"
            self.introduce()
            found = self._exchange(sequence)
        return self._count(found, sequence)

    def _exchange(self, sequence: int) -> client.Exchange | Exception:
        data = protocol.build_request(
            protocol.Group.STATUS,
            0,
            raida_id=self.raida_id,
            coin_id=self.coin_id,
            echo=sequence & 0xFFFF,
            challenge=os.urandom(protocol.CHALLENGE_RANDOM_BYTES),
        )
        try:
            return client.request(
                self.addresses[0],
                self.port,
                data,
                transport=self.transport,
                timeout_s=self.timeout_s,
            )
        except (OSError, ProtocolError) as error:
            return error

    def _is_nobody_there(self, found: client.Exchange | Exception) -> bool:
        """Whether to try the next address: this one refused before any node has answered."""
        heard = self.round_trips_ms or self.timeouts or self.errors
        refused = isinstance(found, OSError) and not isinstance(found, TimeoutError)
        return refused and not heard and len(self.addresses) > 1

    def _is_another(self, reply: protocol.ParsedReply) -> bool:
        wrong = reply.status == protocol.Status.INVALID_RAIDA_ID
        return wrong and reply.raida_id != self.raida_id and self.origin in (_ASSUMED, _FROM_PORT)

    def _count(self, found: client.Exchange | Exception, sequence: int) -> str:
        if isinstance(found, TimeoutError):
            self.timeouts += 1
            return f"no answer from {self.peer}: seq={sequence} within {self.timeout_s:g} s"
        if isinstance(found, Exception):
            self.errors += 1
            return f"no answer from {self.peer}: seq={sequence} {_reason_of(found)}"
        reply, round_trip_ms = found.reply, found.round_trip_s * 1000
        self.round_trips_ms.append(round_trip_ms)
        if reply.status != protocol.Status.SUCCESS:
            self.refused += 1
            self.refusal = _explain_refusal(reply, asked=self.raida_id)
        return (
            f"{reply.status} {protocol.status_name(reply.status)} from {self.peer}: seq={sequence} "
            f"time={round_trip_ms:.3f} ms server={reply.server_time_us} us"
        )

    def summary(self) -> str:
        answered = len(self.round_trips_ms)
        sent = answered + self.timeouts + self.errors
        lost_percent = 100 * (sent - answered) / sent if sent else 0
        refused = f" ({self.refused} refused)" if self.refused else ""
        errors = f", {self.errors} errors" if self.errors else ""
        line = (
            f"{sent} sent, {answered} answered{refused}, {self.timeouts} timeouts{errors}, "
            f"{lost_percent:.3g}% loss"
        )
        if not answered:
            return line
        ordered = sorted(self.round_trips_ms)
        figures = [ordered[0], *(_percentile(ordered, p) for p in (50, 95, 99)), ordered[-1]]
        values = "/".join(f"{value:.3f}" for value in figures)
        return f"{line}\nround trip min/p50/p95/p99/max = {values} ms"


def _reason_of(found: client.Exchange | Exception) -> str:
    return str((found.strerror if isinstance(found, OSError) else None) or found)


def _explain_refusal(reply: protocol.ParsedReply, *, asked: int) -> str:
    """Why RAIDA `asked` did not echo, in words that follow the address."""
    if reply.status == protocol.Status.INVALID_RAIDA_ID and reply.raida_id != asked:
        return f"is RAIDA {reply.raida_id}, not {asked}: ask with --raida-id {reply.raida_id}"
    status = f"{reply.status} {protocol.status_name(reply.status)}"
    if reply.status == protocol.Status.INVALID_COIN_ID:
        return f"does not serve that coin ({status}): see --coin-id"
    return f"refused the echo with status {status}"
