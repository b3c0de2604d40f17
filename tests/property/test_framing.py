"""Framing does not depend on how bytes arrive, and no bytes can harm the node.

What must hold: the same bytes sent at once, byte by byte or in random pieces over TCP bring the
same answer (execution time and random nonces aside); garbage of any length over either transport
never stops service and never leaks: the conservation laws hold and nothing stays in flight.
"""

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.handlers import BLOB, HANG, HOLD, KEEP, MIRROR, NAP, SLOW_HOLD
from tests.support.net import tcp_ask, udp_ask, udp_client
from tests.support.node import (
    BACKENDS,
    HANDLERS,
    Node,
    assert_lawful,
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
    vote_agreed,
)

GARBAGE_BYTES_MAX = 2000  # past udp_effective_payload, so truncation is met too

# show_stats answers with counters, which differ from one request to the next.
RECORDED = {v.name: v.request for v in load_vectors() if "show_stats" not in v.name}


@pytest.fixture(scope="module", params=BACKENDS)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """One node for all examples: what one leaves behind must not harm the next."""
    if (refusal := backend_refusal(request.param)) is not None:
        pytest.skip(refusal)
    with using_backend(request.param), running_node(handlers=HANDLERS) as running:
        yield running


def built_requests() -> st.SearchStrategy[bytes]:
    commands = st.sampled_from([ECHO_COMMAND, VERSION_COMMAND, MIRROR, (1, 10), (9, 9)])
    plain = st.builds(request, commands, st.binary(max_size=600))
    bodyless = commands.map(lambda command: request(command, body=False))
    blobs = st.integers(0, 5000).map(lambda count: request(BLOB, count.to_bytes(4)))
    encrypted = st.builds(
        encrypted_request, st.sampled_from([1, 2, 4, 5]), commands, st.binary(max_size=200)
    )
    recorded = st.sampled_from(list(RECORDED)).map(RECORDED.__getitem__)
    return st.one_of(plain, bodyless, blobs, encrypted, recorded)


# Commands of the tests' handlers that wait, keep, or build as much as four random bytes say.
UNFIT = (HOLD, SLOW_HOLD, HANG, NAP, KEEP, BLOB)


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    """A request with some bytes changed, missing or added."""
    data = bytearray(draw(built_requests()))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            # Most faults are in the header; uniform positions would rarely meet it.
            last = min(len(data), draw(st.sampled_from([17, 48, len(data)]))) - 1
            data[draw(st.integers(0, last))] = draw(st.integers(0, 255))
    if tuple(data[4:6]) in UNFIT:  # damage can turn one command into another
        data[5] = MIRROR[1]
    del data[draw(st.integers(0, len(data))) if draw(st.booleans()) else len(data) :]
    return bytes(data) + draw(st.binary(max_size=40))


streams = st.one_of(built_requests(), damaged_requests(), st.binary(max_size=200))
garbage = st.one_of(
    damaged_requests(),
    st.binary(max_size=60),
    st.builds(  # long garbage from a seed: Hypothesis would spend its whole budget on the bytes
        lambda seed, size: random.Random(seed).randbytes(size),
        st.integers(0, 2**32),
        st.integers(0, GARBAGE_BYTES_MAX),
    ),
)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """`data` in pieces that end at `points` (bytes from the start)."""
    edges = sorted({0, len(data), *(point for point in points if point < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(stream=streams, points=st.lists(st.integers(1, 700), max_size=12))
@example(stream=request(ECHO_COMMAND), points=[17, 32, 48])
@example(stream=request(MIRROR, bytes(300)), points=[31, 33, 349])
def test_pieces_make_no_difference(node: Node, stream: bytes, points: list[int]) -> None:
    # The half-close makes "incomplete, hence no answer" an event instead of a timeout.
    whole = tcp_ask(node.endpoint, stream, half_close=True)
    bytewise = tcp_ask(node.endpoint, *cut(stream, list(range(len(stream)))), half_close=True)
    pieces = tcp_ask(node.endpoint, *cut(stream, points), half_close=True)
    expected = steady(stream, whole)
    assert steady(stream, bytewise) == expected
    assert steady(stream, pieces) == expected


@given(stream=built_requests())
def test_transports_agree(node: Node, stream: bytes) -> None:
    """A complete request that fits a datagram and is no vote gets the same answer over UDP."""
    over_tcp = tcp_ask(node.endpoint, stream, half_close=True)
    is_vote = len(stream) == len(vote()) and stream[0] == vote()[0]
    if over_tcp and len(stream) <= 1440 and not is_vote:
        assert steady(stream, udp_ask(node.endpoint, stream)) == steady(stream, over_tcp)


@given(datagrams=st.lists(garbage, max_size=40), streamed=st.lists(garbage, max_size=4))
def test_garbage_is_accounted_for(
    node: Node, datagrams: list[bytes], streamed: list[bytes]
) -> None:
    before = node.counters()["udp_received"]
    with udp_client(node.endpoint) as client:
        for datagram in datagrams:
            client.sendto(datagram, node.endpoint)
        for stream in streamed:
            tcp_ask(node.endpoint, stream, half_close=True)
        received = before + len(datagrams)
        node.wait_for_counts(
            udp_received=received, udp_in_flight=0, tcp_in_flight=0, connections_open=0
        )
    assert_lawful(node.counters())
    assert udp_ask(node.endpoint, vote()) == vote_agreed()
