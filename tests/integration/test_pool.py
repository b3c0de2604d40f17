"""The UDP context pool and the requests that handlers hold.

What must hold: whatever empty datagrams, blocked handlers or vanished peers do, votes are answered,
nothing is lost uncounted, no context is used again before it has come back, and every one does
come back.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.handlers import BLOB, HOLD, MIRROR, SLOW_HOLD, gate
from tests.support.needs import require_descriptors
from tests.support.net import read_to_close, reset, tcp_ask, tcp_connect, udp_client, udp_exchange
from tests.support.node import HANDLERS, eventually, running_node, total
from tests.support.wire import (
    ECHO_COMMAND,
    VERSION_COMMAND,
    challenge_of,
    reply_payload,
    request,
    status,
    vote,
    vote_agreed,
)


def nonces() -> Iterator[bytes]:
    number = 0
    while True:
        yield number.to_bytes(16)
        number += 1


def test_pitfall_3_1_empty_datagrams_lose_no_vote(backend: str) -> None:
    """An empty datagram ends a multishot receive; a vote right behind it must not be lost. Ends are
    counted, and one a lap at most: who sends nothing but them makes the loop go no faster."""
    with running_node() as node, udp_client(node.endpoint) as client:
        nonce = nonces()
        for burst in range(200):
            expected = {vote_agreed(next(nonce)) for _ in range(10)}
            for reply in sorted(expected):
                client.sendto(b"", node.endpoint)
                client.sendto(vote(nonce=reply[1:]), node.endpoint)
                for _ in range(burst % 3):
                    client.sendto(b"", node.endpoint)
            assert {client.recv(64) for _ in expected} == expected
        empties = 200 * 10 + 10 * sum(burst % 3 for burst in range(200))
        node.wait_for_counts(udp_received=2000 + empties, udp_in_flight=0)
        counters = node.counters()
        assert counters["udp_answered"] == 2000
        assert counters["udp_dropped_empty"] == total(counters, "udp_dropped_") == empties
        assert (counters["udp_receive_ended"] > 0) == (backend == "uring")
        assert counters["udp_receive_ended"] <= counters["laps"]


def test_dropped_by_reason() -> None:
    """Empty, shorter than 17 bytes, shorter than the header: none answered, each counted."""
    with running_node() as node, udp_client(node.endpoint) as client:
        for size in (0, 1, 16, 17, 31):
            client.sendto(request(ECHO_COMMAND)[:size], node.endpoint)
        node.wait_for_counts(udp_received=5, udp_in_flight=0)
        counters = node.counters()
        assert counters["udp_answered"] == 0
        assert counters["udp_dropped_empty"] == 1
        assert counters["udp_dropped_short"] == 4


@pytest.mark.parametrize(("contexts", "reserve"), [(4096, 512), (8, 4), (1, 1)])
def test_pitfall_3_3_votes_pass_while_handlers_hold_every_context(
    contexts: int, reserve: int
) -> None:
    pool = {"contexts": contexts, "reserve": reserve}
    with running_node(udp=pool, handlers=HANDLERS) as node, udp_client(node.endpoint) as holder:
        with gate.closed():
            for sent_count in range(1, contexts + 1):
                holder.sendto(request(HOLD, sent_count.to_bytes(4)), node.endpoint)
                if sent_count % 256 == 0 or sent_count == contexts:
                    node.wait_for_counts(udp_in_flight=sent_count)

            with udp_client(node.endpoint) as voter:
                # One more ordinary request has no context: dropped at once, and counted.
                voter.sendto(request(HOLD, b"one too many"), node.endpoint)
                node.wait_for(lambda now: total(now, "udp_dropped_") == 1)
                nonce = nonces()
                for _ in range(3 * (contexts + reserve) if contexts < 100 else 1000):
                    sent = next(nonce)
                    reply = udp_exchange(voter, node.endpoint, vote(nonce=sent))
                    assert reply == vote_agreed(sent)
            node.wait_for_counts(udp_in_flight=contexts)
            eventually(lambda: gate.inside > 0)  # and they were held by handlers, not lost

        numbers = {reply_payload(holder.recv(2048)) for _ in range(contexts)}
        assert numbers == {number.to_bytes(4) for number in range(1, contexts + 1)}
        node.wait_for_counts(udp_in_flight=0)
        for _ in range(2 * (contexts + reserve)):  # every slot serves again
            sent_bytes = request(VERSION_COMMAND)
            reply = udp_exchange(holder, node.endpoint, sent_bytes)
            assert (status(reply), reply[16:32]) == (250, challenge_of(sent_bytes))
        assert total(node.counters(), "udp_dropped_") == 1


def test_plain_echo_needs_no_worker() -> None:
    """The fast path answers while every worker is blocked, over both transports."""
    with running_node(handlers=HANDLERS) as node, ExitStack() as stack, gate.closed():
        holder = stack.enter_context(udp_client(node.endpoint))
        for index in range(64):
            holder.sendto(request(HOLD, echo=index), node.endpoint)
        node.wait_for_counts(udp_in_flight=64)
        with udp_client(node.endpoint) as client:
            assert status(udp_exchange(client, node.endpoint, request(ECHO_COMMAND))) == 250
        assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        assert node.counters()["udp_in_flight"] == 64


def test_no_request_hides_behind_a_slow_one() -> None:
    """With all workers but one blocked, the rest of the traffic flows through that one."""
    worker_count = 4
    with (
        running_node(workers={"count": worker_count}, handlers=HANDLERS) as node,
        udp_client(node.endpoint) as holder,
        udp_client(node.endpoint) as client,
        gate.closed(),
    ):
        for count in range(1, worker_count):
            holder.sendto(request(HOLD), node.endpoint)
            node.wait_for_counts(udp_in_flight=count)
        for index in range(200):
            sent = request(MIRROR, index.to_bytes(4), echo=index)
            reply = udp_exchange(client, node.endpoint, sent)
            assert reply_payload(reply) == index.to_bytes(4)


def test_slow_commands_have_their_own_pool() -> None:
    """Blocked slow commands delay no ordinary one; past their queue the answer is 160."""
    slow_count, queue_max = 2, 3
    with (
        running_node(
            workers={"slow_count": slow_count, "count": 2},
            limits={"slow_queue_max": queue_max},
            handlers=HANDLERS,
        ) as node,
        udp_client(node.endpoint) as holder,
    ):
        with gate.closed():
            for count in range(1, slow_count + queue_max + 1):
                holder.sendto(request(SLOW_HOLD, b"held"), node.endpoint)
                node.wait_for_counts(udp_in_flight=count)
            with udp_client(node.endpoint) as client:
                refused = udp_exchange(client, node.endpoint, request(SLOW_HOLD, b"too many"))
                assert status(refused) == 160
                mirrored = udp_exchange(client, node.endpoint, request(MIRROR, b"ordinary"))
                assert reply_payload(mirrored) == b"ordinary"
        for _ in range(slow_count + queue_max):
            assert reply_payload(holder.recv(2048)) == b"held"


def test_pitfall_3_5_thousand_peers_reset_while_their_handlers_run() -> None:
    """Descriptors are freed at once, requests only when their handlers return: none of the new
    connections, which take the freed descriptors, sees an old answer."""
    count = 1000
    require_descriptors(4 * count + 500)  # both ends are here, and old ones beside new ones
    with running_node(handlers=HANDLERS) as node, ExitStack() as stack:
        with gate.closed():
            gone = [tcp_connect(node.endpoint) for _ in range(count)]
            for index, client in enumerate(gone):
                client.sendall(request(HOLD, b"old" + index.to_bytes(4), echo=index))
            node.wait_for_counts(tcp_in_flight=count)
            for client in gone:
                reset(client)
            node.wait_for_counts(connections_open=0)
            assert node.counters()["tcp_in_flight"] == count

            fresh = [stack.enter_context(tcp_connect(node.endpoint)) for _ in range(count)]
            sent = [request(HOLD, b"new" + index.to_bytes(4), echo=index) for index in range(count)]
            for client, data in zip(fresh, sent, strict=True):
                client.sendall(data)
            node.wait_for_counts(tcp_in_flight=2 * count)
            assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        for client, data in zip(fresh, sent, strict=True):
            reply = read_to_close(client)
            assert reply[16:32] == challenge_of(data)
            assert reply_payload(reply) == data[48:-2]
        node.wait_for_counts(tcp_in_flight=0)
        counters = node.counters()
        assert counters["tcp_dropped_peer_gone"] == count
        assert counters["tcp_answered"] == count + 1


def test_one_blocked_handler_delays_no_other_request() -> None:
    """Requests are held for a batch that may be back soon, not for a handler that blocks."""
    with (
        running_node(handlers=HANDLERS, workers={"count": 4}) as node,
        udp_client(node.endpoint) as blocked,
        udp_client(node.endpoint) as client,
    ):
        for _ in range(20):  # quick ones, so that the lane's batches are large
            assert status(udp_exchange(client, node.endpoint, request(VERSION_COMMAND))) == 250
        with gate.closed():
            blocked.sendto(request(HOLD), node.endpoint)
            eventually(lambda: gate.inside == 1)
            before = node.server.observe().histograms["queue"]
            for _ in range(100):
                assert status(udp_exchange(client, node.endpoint, request(VERSION_COMMAND))) == 250
            after = node.server.observe().histograms["queue"]
        blocked.recv(2048)
    quick = sum(
        new - old
        for floor, new, old in zip(after.floors_ns, after.counts, before.counts, strict=True)
        if floor < 1_000_000
    )
    assert quick >= 50, f"{quick} of 100 requests waited less than 1 ms for a worker"


def test_reply_factor_does_not_count_what_stands_behind_the_body() -> None:
    """Zeros behind a short request pay for no long reply."""
    with running_node(handlers=HANDLERS, limits={"udp_reply_factor_max": 16}) as node:
        asked = request(BLOB, (1000).to_bytes(4))
        assert len(asked) * 16 < 1000 < 1400
        for padding in (0, 1, 1400 - len(asked)):
            with udp_client(node.endpoint) as client:
                reply = udp_exchange(client, node.endpoint, asked + bytes(padding))
            assert status(reply) == 89
        longer = request(BLOB, (1000).to_bytes(4) + bytes(50))
        with udp_client(node.endpoint) as client:
            assert status(udp_exchange(client, node.endpoint, longer)) == 250
        node.wait_for_counts(refused_factors=3)
