"""Recorded exchanges about coins, replayed against a node with the recorded store.

Source: wire.json (wire specification, section 11). Every vector applies here; those of one `group`
stay together and in order. What must hold: every answer equals the recording outside its mask.
"""

import random
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest

from raida_uring.protocol import Status
from tests.support.net import (
    Endpoint,
    read_to_close,
    send_pieces,
    tcp_connect,
    udp_client,
    udp_exchange,
)
from tests.support.node import Table, daemon, free_port, running_node
from tests.support.store import MAP_BYTES, ROOTS, make_recorded_store
from tests.support.wire import Vector, load_vectors, reply_payload, request, status

VECTORS = [vector for vector in load_vectors() if vector.response is not None]
WITH_ROOTS = [v for v in VECTORS if v.when in (None, "roots_built")]
WITHOUT_ROOTS = [v for v in VECTORS if v.when in (None, "roots_absent")]


def tables(store: Path, *, roots: bool) -> dict[str, Table]:
    """Configuration of a node with this store; its peers refuse connections."""
    closed = free_port()
    return {
        "server": {
            "synchronization_enabled": roots,
            "raida_servers": [f"127.0.0.1:{closed}"] * 25,
        },
        "store": {"path": str(store), "size_mib": MAP_BYTES >> 20, "pages_for": "all"},
    }


def shuffled(vectors: Iterable[Vector], seed: int) -> list[Vector]:
    """In random order, but groups whole and in their own order, and what changes coins last: roots
    and ANs were recorded before."""
    keyed = ((v.group or v.name, v) for v in vectors)
    blocks = [[v for _, v in block] for _, block in groupby(keyed, key=lambda pair: pair[0])]
    random.Random(seed).shuffle(blocks)
    blocks.sort(key=lambda block: "pown" in block[0].name)
    return [v for block in blocks for v in block]


def ask(endpoint: Endpoint, transport: str, data: bytes) -> bytes:
    """One exchange over a socket of its own."""
    if transport == "udp":
        with udp_client(endpoint) as client:
            return udp_exchange(client, endpoint, data)
    with tcp_connect(endpoint) as client:
        send_pieces(client, [data])
        return read_to_close(client)


def replay(endpoint: Endpoint, vectors: Iterable[Vector]) -> list[str]:
    """The names of those answered wrongly, with the answer."""
    wrong = []
    kept: dict[str, bytes] = {}
    for vector in vectors:
        reply = ask(endpoint, vector.transport, vector.patched(kept))
        if vector.capture is not None:
            name, offset, length = vector.capture
            kept[name] = reply[offset : offset + length]
        if not vector.accepts(reply):
            assert vector.response is not None
            wrong.append(f"{vector.name}: {reply.hex()}, recorded {vector.response.hex()}")
    return wrong


@pytest.mark.parametrize("seed", [1, 2])
def test_with_roots(tmp_path: Path, seed: int) -> None:
    store = make_recorded_store(tmp_path / "store")
    with running_node(**tables(store, roots=True)) as node:
        assert replay(node.endpoint, shuffled(WITH_ROOTS, seed)) == []


def test_without_roots(tmp_path: Path) -> None:
    store = make_recorded_store(tmp_path / "store")
    with running_node(**tables(store, roots=False)) as node:
        assert replay(node.endpoint, WITHOUT_ROOTS) == []


def test_the_daemon_in_recorded_order(tmp_path: Path) -> None:
    store = make_recorded_store(tmp_path / "store")
    settings = tables(store, roots=True)
    with daemon(tmp_path, server=settings["server"], store=settings["store"]) as node:
        assert replay(node.endpoint, WITH_ROOTS) == []


@pytest.mark.any_backend
def test_roots_are_the_recorded_ones(tmp_path: Path) -> None:
    store = make_recorded_store(tmp_path / "store")
    with running_node(**tables(store, roots=True)) as node:
        reply = ask(node.endpoint, "tcp", request((14, 5), bytes(480)))
        assert status(reply) == Status.SUCCESS
        assert reply_payload(reply) == ROOTS
