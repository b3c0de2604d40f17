"""Recorded exchanges of the reference server, replayed against a running node.

Source: wire.json (wire specification, section 11). Without a store the categories framing, header,
body, status and vote apply, less those whose setting or coins this node does not have.

What must hold: every answer equals the recording outside its mask, left-over (`stale`) ranges
included; silence stays silence; a TCP answer is followed by the close. In any order, and whatever
the slots and connections held before.
"""

import errno
import random
import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import pytest

from raida_uring.node.causes import circumstances
from tests.support.confine import IO_URING_CALLS
from tests.support.net import (
    Endpoint,
    assert_silent,
    read_to_close,
    send_pieces,
    tcp_ask,
    tcp_connect,
    udp_ask_all,
    udp_client,
    udp_exchange,
)
from tests.support.node import Table, confined, daemon, running_node
from tests.support.wire import (
    ECHO_COMMAND,
    FIXTURE,
    VERSION_COMMAND,
    Vector,
    encrypted_request,
    load_vectors,
    request,
)

SILENCE_S = 0.6  # wire specification 11: "no answer" on TCP means none within this time
CATEGORIES = ("framing", "header", "body", "status", "vote")
NEED_COINS = ("udp_just_below_limit", "tcp_over_udp_limit_ok")

VECTORS = [
    vector
    for vector in load_vectors()
    if vector.category in CATEGORIES
    and vector.name not in NEED_COINS
    and vector.when in (None, "roots_absent")
]

POOLS: dict[str, Table] = {
    "default-pool": {},
    "tiny-pool": {"contexts": 4, "reserve": 4},  # every slot is used again within a few requests
}


def replay(endpoint: Endpoint, vectors: Sequence[Vector]) -> list[str]:
    """Send `vectors` in order; the names of those answered wrongly, with the answer.

    Silent cases stay open while the others run and are all watched together at the end.
    """
    wrong: list[str] = []
    silent: list[socket.socket] = []
    with ExitStack() as stack:
        for vector in vectors:
            if vector.transport == "udp":
                client = stack.enter_context(udp_client(endpoint))
            else:
                client = stack.enter_context(tcp_connect(endpoint))
            if vector.response is None:
                if vector.transport == "udp":
                    client.sendto(vector.request, endpoint)
                else:
                    send_pieces(client, [vector.request])
                silent.append(client)
                continue
            if vector.transport == "udp":
                reply = udp_exchange(client, endpoint, vector.request)
            else:
                send_pieces(client, [vector.request])
                reply = read_to_close(client)
            if not vector.accepts(reply):
                wrong.append(f"{vector.name}: {reply.hex()}, recorded {vector.response.hex()}")
        assert_silent(silent, SILENCE_S)
    return wrong


def dirty(endpoint: Endpoint, slot_count: int, window: int) -> None:
    """Leave the bytes of strangers in every UDP slot and in TCP bodies of every size."""
    slot_bytes: int = FIXTURE["udp_effective_payload"]
    coin_request = encrypted_request(5, ECHO_COMMAND, b"\xff" * (slot_bytes - 48))
    bad_type = bytearray(encrypted_request(4, ECHO_COMMAND, b"\xff" * 700))
    bad_type[16] = 0xFF
    junk = [
        coin_request,
        bytes(bad_type),
        encrypted_request(1, (1, 10), b"\xff" * (slot_bytes - 32)),
        request(ECHO_COMMAND, body=False)[:22] + b"\x05\x80" + b"\xff" * (slot_bytes - 24),
        request(VERSION_COMMAND, b"\xff" * 1000, echo=0xFFFF),
    ]
    assert len(udp_ask_all(endpoint, islice(cycle(junk), slot_count), window)) == slot_count
    for body_bytes in (200, 2000, 60000):
        body = b"\xff" * body_bytes
        for _ in range(8):
            assert tcp_ask(endpoint, encrypted_request(2, ECHO_COMMAND, body))


@pytest.mark.any_backend
def test_selection_is_the_one_meant() -> None:
    """A slip in the selection above must not shrink the suite unnoticed."""
    counts = {name: sum(v.category == name for v in VECTORS) for name in CATEGORIES}
    assert counts == {"framing": 12, "header": 29, "body": 16, "status": 8, "vote": 4}
    assert sum(v.response is None for v in VECTORS) == 8


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled_over_dirty_slots(pool: str, seed: int) -> None:
    udp = POOLS[pool]
    slot_count, window = (8, 2) if udp else (4096 + 512, 32)
    shuffled = random.Random(seed).sample(VECTORS, len(VECTORS))
    with running_node(udp=udp) as node:
        dirty(node.endpoint, slot_count, window)
        assert replay(node.endpoint, shuffled) == []


def test_twice_on_one_node() -> None:
    """What a vector leaves behind must not show in any other, in either order."""
    with running_node() as node:
        assert replay(node.endpoint, VECTORS) == []
        assert replay(node.endpoint, VECTORS[::-1]) == []


def test_against_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as node:
        assert replay(node.endpoint, VECTORS) == []


@pytest.mark.any_backend
@pytest.mark.parametrize("call", IO_URING_CALLS)
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_where_io_uring_is_refused(tmp_path: Path, call: str, code: int) -> None:
    """As containers do, for each of the three calls: the node serves on epoll and says why."""
    refuse = confined(f"refuse_system_call({IO_URING_CALLS[call]}, {code})")
    with daemon(tmp_path, command=refuse) as node:
        assert replay(node.endpoint, VECTORS) == []
        line = next(line for line in node.stderr().splitlines() if "serving on" in line)
    cause = "a seccomp filter"
    if (call, code, circumstances().disabled) == ("io_uring_setup", errno.ENOSYS, None):
        cause = "or a sandbox hides it"  # before 6.6 nothing tells it from a kernel without
    assert re.search(rf": epoll \(io_uring refused: .*{cause}", line), line
