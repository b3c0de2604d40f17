"""One trace of requests, replayed on every backend.

What must hold: which backend serves is not to be seen, neither in an answer (execution time and
random nonces aside) nor in a counter that says what became of a datagram, request or connection.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import pytest

from tests.support.handlers import BLOB, MIRROR, STATUS
from tests.support.net import tcp_ask, udp_client, udp_exchange
from tests.support.node import (
    BACKENDS,
    HANDLERS,
    Counters,
    backend_refusal,
    running_node,
    using_backend,
)
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    encrypted_request,
    load_vectors,
    request,
    steady,
    vote,
)

SLOT_BYTES = 1440
PAYLOAD_BYTES_MAX = 20_000  # past the small blocks; over UDP such a datagram is cut

# How the work was cut into laps, batches and operations: the backend's own affair.
OWN_AFFAIRS = {
    "accept_ended",
    "batches",
    "laps",
    "loop_cpu_ns",
    "worker_lock_wait_ns",
    "sleeps",
    "udp_receive_ended",
    "wakes",
}

# show_stats answers with counts of what may have overtaken it over the other transport.
RECORDED = [vector for vector in load_vectors() if "show_stats" not in vector.name]


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send; over TCP in pieces, on a connection of their own."""

    transport: str
    pieces: tuple[bytes, ...]
    answered: bool = True


def steps(draw: random.Random) -> Iterator[Step]:
    """Requests of every kind, for ever."""

    def payload() -> bytes:
        return draw.randbytes(draw.choice((0, 1, 100, 240, 700, 1300, PAYLOAD_BYTES_MAX)))

    def either(data: bytes) -> Step:
        return cut(data) if draw.random() < 0.4 else Step("udp", (data,))

    def cut(data: bytes) -> Step:
        points = sorted(draw.sample(range(1, len(data)), draw.choice((0, 0, 1, 3))))
        edges = [0, *points, len(data)]
        return Step("tcp", tuple(data[a:b] for a, b in pairwise(edges)))

    def recorded() -> Step:
        vector = draw.choice(RECORDED)
        return Step(vector.transport, (vector.request,), vector.response is not None)

    def damaged() -> Step:
        data = bytearray(request(draw.choice((ECHO_COMMAND, MIRROR)), draw.randbytes(50)))
        data[draw.choice((0, 1, 2, 3, 4, 5, 7, 16, 22, 40, len(data) - 1))] ^= draw.randrange(
            1, 256
        )
        return cut(bytes(data))

    makers: tuple[Callable[[], Step], ...] = (
        lambda: Step("udp", (vote(draw.randbytes(16)),)),
        lambda: either(request(draw.choice((ECHO_COMMAND, VERSION_COMMAND, (1, 10), (9, 9))))),
        lambda: either(request(ECHO_COMMAND, body=False)),
        lambda: either(request(MIRROR, payload())),
        lambda: either(request(BLOB, draw.randrange(SLOT_BYTES * 3).to_bytes(4))),
        lambda: either(request(STATUS, draw.randbytes(1))),
        lambda: either(encrypted_request(draw.choice((1, 2, 4, 5)), MIRROR, draw.randbytes(80))),
        lambda: Step("udp", (draw.randbytes(draw.choice((0, 0, 1, 16))),), answered=False),
        lambda: Step("tcp", (request(MIRROR, payload())[: draw.randrange(1, 48)],)),
        lambda: Step("tcp", (draw.randbytes(draw.randrange(1, 200)),)),
        recorded,
        damaged,
    )
    while True:
        yield draw.choice(makers)()


def replay(backend: str, persistent: bool, trace: list[Step]) -> tuple[list[bytes], Counters]:
    """Every answer, and what was counted; one step at a time, so that both can be compared."""
    answers: list[bytes] = []
    with (
        using_backend(backend),
        running_node(tcp={"persistent": persistent}, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as client,
    ):
        for step in trace:
            data = b"".join(step.pieces)
            if step.transport == "tcp":
                # The half-close makes "incomplete, hence no answer" an event, not a time-out.
                answer = tcp_ask(node.endpoint, *step.pieces, half_close=True)
            elif step.answered:
                answer = udp_exchange(client, node.endpoint, data)
            else:
                client.sendto(data, node.endpoint)
                answer = b""
            answers.append(steady(data, answer))
        datagrams = sum(step.transport == "udp" for step in trace)
        node.wait_for_counts(
            udp_received=datagrams, udp_in_flight=0, tcp_in_flight=0, connections_open=0
        )
        return answers, node.counters()


@pytest.mark.any_backend
@pytest.mark.parametrize(("persistent", "count"), [(False, 10_000), (True, 3_000)])
def test_same_answers_and_counters(persistent: bool, count: int) -> None:
    for backend in BACKENDS:
        if (refusal := backend_refusal(backend)) is not None:
            pytest.skip(refusal)
    trace = list(islice(steps(random.Random(count)), count))
    (expected, expected_counters), *others = (
        replay(backend, persistent, trace) for backend in BACKENDS
    )
    for answers, counters in others:
        for step, answer, wanted in zip(trace, answers, expected, strict=True):
            assert answer == wanted, step
        differing = {
            name: (counters[name], wanted)
            for name, wanted in expected_counters.items()
            if counters[name] != wanted and name not in OWN_AFFAIRS
        }
        assert not differing
