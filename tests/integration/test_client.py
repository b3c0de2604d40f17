"""The client library against a running node, and against peers that misbehave.

What must hold: both clients give the same answers over both transports and under every encryption
type; what is not the reply to this request is never taken for it; every failure has its own error
within its time.
"""

import asyncio
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raida_uring import client, protocol
from raida_uring.client import Answer, AsyncClient, Client, Coin, Key, RefusedError, calls
from raida_uring.errors import ProtocolError
from raida_uring.protocol.calls import Call
from tests.support.coins import Coins
from tests.support.command_line import output_of
from tests.support.handlers import BLOB, blob_bytes
from tests.support.net import PATIENCE, reset
from tests.support.node import HANDLERS, daemon, free_port, running_node
from tests.support.peers import tcp_peer, udp_peer
from tests.support.wire import ADMIN_KEY, COIN_ID, RAIDA_ID

COINS = Coins()
FIRST = Coin(0, 8, COINS.an(0, 8) or b"")
SECOND = Coin(-8, 1023998, COINS.an(-8, 1023998) or b"")
KEYS = [None, Key(1, (FIRST,)), Key(4, (SECOND,)), Key(5, (FIRST, SECOND))]

Ask = Callable[..., Answer[Any]]


def ask_sync(node: tuple[str, int], call: Call[Any], **settings: Any) -> Answer[Any]:
    return Client(*node, raida_id=RAIDA_ID, coin_id=COIN_ID, **settings).ask(call)


def ask_async(node: tuple[str, int], call: Call[Any], **settings: Any) -> Answer[Any]:
    asking = AsyncClient(*node, raida_id=RAIDA_ID, coin_id=COIN_ID, **settings).ask(call)
    return asyncio.run(asking)


both_clients = pytest.mark.parametrize("ask", [ask_sync, ask_async])
both_transports = pytest.mark.parametrize("transport", ["udp", "tcp"])


def blob(count: int) -> Call[bytes]:
    group, command = BLOB
    payload = count.to_bytes(4)
    return Call(group, command, payload, frozenset((250,)), lambda _status, data: data)


@both_clients
@both_transports
@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"type-{key.encryption if key else 0}")
def test_answers(ask: Ask, transport: str, key: Key | None) -> None:
    settings = {"transport": transport, "key": key, "timeout_s": 10.0}
    with running_node(COINS, handlers=HANDLERS) as node:
        version = ask(node.endpoint, calls.version(), **settings)
        if key is not None and key.encryption == 1:  # everybody knows it: it would tell the key
            assert (version.status, version.accepted) == (36, False)
            with pytest.raises(RefusedError, match=r"36 EMPTY_REQUEST: .*ask without a key"):
                version.require()
        else:
            assert version.require() == "20250323"
        assert ask(node.endpoint, calls.echo(b"any"), **settings).require() is None
        stats = ask(node.endpoint, calls.show_stats(ADMIN_KEY), **settings).require()
        assert isinstance(stats, calls.NodeStats)
        assert stats.echoes == 1
        for count in (1, 1000, 20000):
            answer = ask(node.endpoint, blob(count), **settings)
            assert answer.require() == blob_bytes(count)
            assert answer.round_trip_s > 0
        refused = ask(node.endpoint, calls.show_stats(bytes(16)), **settings)
        assert (refused.status, refused.accepted, refused.value) == (38, False, None)
        with pytest.raises(RefusedError, match="38 ADMIN_AUTH") as caught:
            refused.require()
        assert caught.value.status == 38


@both_clients
@both_transports
def test_refusals_of_every_layer(ask: Ask, transport: str) -> None:
    """Header, key, CRC and HMAC: each is an answer, in time, not an error."""
    wrong = Coin(0, 8, bytes(16))
    unknown = Coin(0, 1_024_000, bytes(16))
    with running_node(COINS) as node:
        for key, status in [
            (Key(1, (wrong,)), 37),
            (Key(4, (wrong,)), 204),
            (Key(5, (FIRST, wrong)), 204),
            (Key(1, (unknown,)), 34),
            (Key(2, locker=bytes(16)), 34),
            (Key(4, (unknown,)), 25),
            (Key(5, (FIRST, unknown)), 25),
        ]:
            settings = {"transport": transport, "key": key, "timeout_s": 10.0}
            assert ask(node.endpoint, calls.echo(), **settings).status == status, key
        nothing = Call(0, 77, bytes(2000), frozenset((250,)), lambda _status, data: data)
        for any_key in KEYS:
            settings = {"transport": transport, "key": any_key, "timeout_s": 10.0}
            assert ask(node.endpoint, nothing, **settings).status == 6


@both_clients
def test_refused_before_the_body_is_sent(ask: Ask) -> None:
    """The node answers from the header and resets; the reply must not get lost in that."""
    body = Call(0, 77, bytes(65000), frozenset((250,)), lambda _status, data: data)
    with running_node() as node:
        for _ in range(50):
            assert ask(node.endpoint, body, transport="tcp", timeout_s=10.0 * PATIENCE).status == 6


@both_clients
def test_another_node(ask: Ask) -> None:
    """3, over a port where another RAIDA answers."""
    with running_node(server={"raida_id": RAIDA_ID + 1}) as node:
        assert ask(node.endpoint, calls.version(), timeout_s=10.0 * PATIENCE).status == 3


def test_votes() -> None:
    with running_node() as node:
        asked = Client(*node.endpoint, raida_id=RAIDA_ID, timeout_s=10.0 * PATIENCE)
        assert asked.vote() is True
        assert asked.vote(b"\1" * 480) is False
        waiting = AsyncClient(*node.endpoint, raida_id=RAIDA_ID, timeout_s=10.0 * PATIENCE)
        assert asyncio.run(waiting.vote()) is True


def test_many_at_once() -> None:
    """Answers to 200 questions in flight are not mixed up."""

    async def ask_all(node: tuple[str, int]) -> list[Answer[bytes]]:
        settings: dict[str, Any] = {"raida_id": RAIDA_ID, "coin_id": COIN_ID, "timeout_s": 30.0}
        asked = [AsyncClient(*node, key=key, **settings) for key in KEYS]
        questions = [asked[count % len(asked)].ask(blob(count)) for count in range(1, 201)]
        return await asyncio.gather(*questions)

    with running_node(COINS, handlers=HANDLERS) as node:
        answers = asyncio.run(ask_all(node.endpoint))
    assert [answer.value for answer in answers] == [blob_bytes(count) for count in range(1, 201)]


# --- Peers that misbehave ---------------------------------------------------------------------


def sending(answer: bytes) -> Callable[[socket.socket], None]:
    """What a TCP peer does that answers whatever it is sent so."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return serve


def version_reply(request: bytes, **changes: bytes) -> bytes:
    """A right reply to a type 0 version request, with fields changed by offset (`at_6`)."""
    reply = bytearray(bytes((RAIDA_ID, 0, 250, 0, 0, 1)) + request[30:32] + bytes(24))
    reply[9:12] = (10).to_bytes(3)
    reply[16:32] = request[32:48]
    reply += b"20250323>>"
    for name, value in changes.items():
        offset = int(name.removeprefix("at_"))
        reply[offset : offset + len(value)] = value
    return bytes(reply)


STRAYS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _request: b"",
    "short": lambda _request: b"\0" * 11,
    "another-echo": lambda sent: version_reply(sent, at_6=bytes((sent[30] ^ 1, sent[31]))),
    "another-challenge": lambda sent: version_reply(sent, at_16=bytes((sent[32] ^ 1,))),
    "no-proof": lambda sent: version_reply(sent, at_16=bytes(16)),
    "another-group": lambda sent: version_reply(sent, at_3=b"\1"),
    "another-node": lambda sent: version_reply(sent, at_0=bytes((RAIDA_ID + 1,))),
    "cut": lambda sent: version_reply(sent)[:-1],
    "no-terminator": lambda sent: version_reply(sent, at_41=b"?"),
    "early-refusal-of-another": lambda sent: version_reply(sent, at_2=b"\6")[:32],
    "its-own-request": lambda sent: sent,
    "size-that-does-not-fit": lambda sent: version_reply(sent, at_11=b"\0"),
}


@pytest.mark.any_backend
@both_clients
@pytest.mark.parametrize("stray", STRAYS)
def test_stray_datagrams(ask: Ask, stray: str) -> None:
    """Ignored if the reply follows; otherwise the time-out mentions them. Over TCP: an error."""
    make = STRAYS[stray]
    with udp_peer(lambda sent: [make(sent), version_reply(sent)]) as peer:
        assert ask(peer, calls.version(), timeout_s=10.0 * PATIENCE).require() == "20250323"
    with (
        udp_peer(lambda sent: [make(sent)]) as peer,
        pytest.raises(TimeoutError, match="1 datagrams ignored"),
    ):
        ask(peer, calls.version(), timeout_s=0.2)


@pytest.mark.any_backend
@both_clients
def test_replies_whose_payload_does_not_fit(ask: Ask) -> None:
    """It is the reply to this request, so the client does not wait for another."""
    with (
        udp_peer(lambda sent: [version_reply(sent)]) as peer,
        pytest.raises(ProtocolError, match="8 bytes of payload, not 32"),
    ):
        ask(peer, Call(0, 1, b"", frozenset((250,)), calls.show_stats(ADMIN_KEY).read))


@pytest.mark.any_backend
@both_clients
def test_forged_replies_of_type_4(ask: Ask) -> None:
    """A reply with the right echo and coin, from somebody without the key."""

    def forge(request: bytes) -> list[bytes]:
        reply = bytearray(48)
        reply[0], reply[2], reply[9:12] = RAIDA_ID, 250, (42).to_bytes(3)
        reply[16], reply[17:22], reply[46:48] = 4, request[19:24], request[46:48]
        return [bytes(reply) + bytes(40) + b">>"]

    with (
        udp_peer(forge) as peer,
        pytest.raises(TimeoutError, match="HMAC is wrong"),
    ):
        ask(peer, calls.version(), key=Key(4, (SECOND,)), timeout_s=0.2)


@pytest.mark.any_backend
@both_clients
@pytest.mark.parametrize("answer", [b"", b"\0" * 11, bytes(31), bytes(33), bytes(32)])
def test_wrong_replies_over_tcp(ask: Ask, answer: bytes) -> None:
    with tcp_peer(sending(answer)) as peer, pytest.raises(ProtocolError):
        ask(peer, calls.version(), transport="tcp", timeout_s=10.0 * PATIENCE)


@pytest.mark.any_backend
@both_clients
def test_a_reset_within_the_reply_is_no_reply(ask: Ask) -> None:
    """As an end there: what has arrived is judged, whichever client asks."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\0" * 5)
        reset(connection)

    with (
        tcp_peer(serve) as peer,
        pytest.raises(ProtocolError, match="cut short at 5 bytes"),
    ):
        ask(peer, calls.version(), transport="tcp", timeout_s=10.0 * PATIENCE)


@both_clients
@both_transports
def test_a_round_trip_begins_with_the_connection(
    ask: Ask, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up of the name counts towards the time-out alone."""
    look_up, lookup_s = socket.getaddrinfo, PATIENCE

    def slow(host: str, *given: Any, **further: Any) -> object:
        if host != "slow.test":
            return look_up(host, *given, **further)
        if further.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        time.sleep(lookup_s)  # as while a name server does not answer
        return look_up("127.0.0.1", *given, **further)

    with running_node() as node:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        named = "slow.test", node.endpoint[1]
        answer = ask(named, calls.version(), transport=transport, timeout_s=10.0 * PATIENCE)
    assert answer.require() == "20250323"
    assert 0 < answer.round_trip_s < lookup_s


@pytest.fixture
def one_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names for 127.0.0.1 with, before it or after it, an address of a family that this machine
    lacks: as ::1 in /etc/hosts where the kernel was booted without IPv6."""
    look_up = socket.getaddrinfo

    def find(host: str, *given: Any, **further: Any) -> object:
        if host not in ("before.test", "after.test"):
            return look_up(host, *given, **further)
        there = look_up("127.0.0.1", *given, **further)
        lacking = [(255, *there[0][1:])]  # more than Linux has families
        return lacking + there if host == "before.test" else there + lacking

    monkeypatch.setattr(socket, "getaddrinfo", find)


@pytest.mark.any_backend
@pytest.mark.usefixtures("one_lacking")
@both_clients
@both_transports
def test_an_address_of_a_family_that_the_machine_lacks_is_left_out(
    ask: Ask, transport: str
) -> None:
    with running_node() as node:
        for name in ("before.test", "after.test"):
            named = name, node.endpoint[1]
            answer = ask(named, calls.version(), transport=transport, timeout_s=10.0 * PATIENCE)
            assert answer.require() == "20250323"
    for name in ("before.test", "after.test"):  # the fault is that of the other address
        with pytest.raises(ConnectionRefusedError, match=name):
            ask((name, free_port()), calls.version(), transport=transport, timeout_s=10.0)


@pytest.mark.any_backend
def test_the_synchronous_client_needs_no_asyncio() -> None:
    """Importing it takes longer than a ping."""
    script = "import sys; import raida_uring.client; print('asyncio' in sys.modules)"
    assert output_of(sys.executable, "-c", script) == "False\n"


@pytest.mark.any_backend
@both_clients
@both_transports
def test_closed_port(ask: Ask, transport: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        peer = taken.getsockname()
    expected = f"{peer[0]}:{peer[1]}: Connection refused$"
    with pytest.raises(ConnectionRefusedError, match=expected):
        ask(peer, calls.version(), transport=transport, timeout_s=10.0 * PATIENCE)


@both_clients
@both_transports
def test_a_node_without_a_store_says_so_of_commands_on_coins(ask: Ask, transport: str) -> None:
    call = calls.detect([Coin(0, 1, bytes(16))])
    settings = {"transport": transport, "timeout_s": 10.0 * PATIENCE}
    with running_node(COINS) as node:
        answer = ask(node.endpoint, call, **settings)
        page = ask(node.endpoint, calls.get_page_data(0, 0), **settings)
    assert "pages_for" in page.remark
    with pytest.raises(RefusedError, match="89 NOT_IMPLEMENTED: a node without a coin store"):
        answer.require()
    assert ("too long for UDP" in answer.remark) == (transport == "udp")


@both_clients
def test_limits_on_datagrams_are_told_from_other_refusals(ask: Ask) -> None:
    """The statuses alone do not: 16 is a wrong length, 89 a command that is not there."""
    coins = [Coin(0, sn, bytes(16)) for sn in range(67)]
    limits = {"udp_reply_factor_max": 16}
    with running_node(COINS, handlers=HANDLERS, limits=limits) as node:
        answer = ask(node.endpoint, calls.detect(coins), timeout_s=10.0 * PATIENCE)
        assert (answer.status, answer.accepted) == (16, False)
        with pytest.raises(
            RefusedError,
            match=r"16 INVALID_PACKET_LENGTH: the request's 1457 bytes may exceed .*: ask over TCP",
        ):
            answer.require()
        answer = ask(node.endpoint, blob(2000), timeout_s=10.0 * PATIENCE)
        with pytest.raises(RefusedError, match=r"89 NOT_IMPLEMENTED: .* reply is too long .* TCP"):
            answer.require()
        over_tcp = ask(node.endpoint, blob(2000), transport="tcp", timeout_s=10.0 * PATIENCE)
        assert (over_tcp.accepted, over_tcp.remark) == (True, "")
        refused = ask(node.endpoint, calls.show_stats(bytes(16)), timeout_s=10.0 * PATIENCE)
        assert (refused.status, refused.remark) == (38, "")
        with pytest.raises(ValueError, match=r"65550 bytes does not fit a datagram.*tcp"):
            ask(node.endpoint, calls.echo(bytes(65500)))


@pytest.mark.any_backend
@both_clients
@both_transports
def test_a_name_that_nobody_has(ask: Ask, transport: str) -> None:
    with pytest.raises(OSError, match=r"nobody\.invalid:50000: "):
        ask(("nobody.invalid", 50000), calls.version(), transport=transport, timeout_s=60.0)


@both_clients
@both_transports
def test_another_raida_says_which_it_is(ask: Ask, transport: str) -> None:
    with running_node(server={"raida_id": RAIDA_ID - 1}) as node:
        answer = ask(node.endpoint, calls.version(), transport=transport, timeout_s=10.0 * PATIENCE)
        with pytest.raises(
            RefusedError, match=rf"3 INVALID_RAIDA_ID: the node is RAIDA {RAIDA_ID - 1}$"
        ):
            answer.require()


@pytest.mark.any_backend
@both_clients
@both_transports
def test_silence(ask: Ask, transport: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
    ):
        silent.bind(listener.getsockname())
        port = listener.getsockname()[1]
        with pytest.raises(TimeoutError, match=rf"^127\.0\.0\.1:{port}: timed out$"):
            ask(listener.getsockname(), calls.version(), transport=transport, timeout_s=0.1)


@pytest.mark.any_backend
def test_raw_requests_take_any_reply() -> None:
    """`client.request()` judges the form alone."""
    data = protocol.build_request(0, 1, raida_id=RAIDA_ID)
    with udp_peer(lambda sent: [version_reply(sent, at_6=b"??")]) as peer:
        assert client.request(*peer, data, timeout_s=10.0 * PATIENCE).reply.echo == b"??"


@pytest.mark.any_backend
@pytest.mark.parametrize("coin_id", [6, 7])
def test_the_hint_of_a_node_works_as_it_is_printed(tmp_path: Path, coin_id: int) -> None:
    with daemon(tmp_path, server={"coin_id": coin_id}) as running:
        hint = re.search(r"try it: (.*)", running.stderr())
        assert hint is not None
        assert "(as told)" in output_of(*shlex.split(hint[1]), "-c", "1")
