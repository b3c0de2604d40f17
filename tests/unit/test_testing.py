"""Handlers called without a socket get what a node gives them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from raida_uring import config
from raida_uring.client import Key, RefusedError, Transport, calls
from raida_uring.errors import ConfigError, StoreError
from raida_uring.ffi.native_command import ROWS
from raida_uring.handlers import Node, Reply, Request, command, load
from raida_uring.handlers.declaration import commands_of
from raida_uring.handlers.message import fault_of
from raida_uring.protocol import Coin
from raida_uring.store import Store
from raida_uring.testing import HandlerClient
from tests.support.coin_requests import default_an
from tests.support.handlers import (
    BARE,
    BLOB,
    DESCRIBE,
    MIRROR,
    RAISE,
    WRONG_TYPE,
    WRONG_TYPE_COUNT,
)
from tests.support.node import config_text
from tests.support.store import MAP_BYTES, coin_bytes, make_store
from tests.support.write_handlers import CHANGE_AND_RAISE, MEDDLE

MODULE = "tests.support.handlers"
WRITE_MODULE = "tests.support.write_handlers"


def test_built_in_commands() -> None:
    handlers = HandlerClient()
    assert handlers.send(0, 0) == Reply(250)
    assert handlers.send(0, 1, body=False) == Reply(250, b"20250323")
    assert handlers.send(0, 2, body=False) == Reply(36)
    assert handlers.send(5, 77) == Reply(6)


def test_own_commands() -> None:
    assert HandlerClient(MODULE).send(*MIRROR, b"payload") == Reply(250, b"payload")


def test_a_node_of_ones_own() -> None:
    settings = config.parse(config_text({"server": {"admin_key": "00" * 16}}), "test.toml")
    counters = {"echoes": 3, "udp_received": 7}
    handlers = HandlerClient(node=Node(settings, lambda: counters))
    assert handlers.send(0, 2, bytes(16)).payload == struct.pack("<4Q", 3, 0, 0, 7)


def test_handlers_that_change_coins(tmp_path: Path) -> None:
    """Each request has its own view: the next one sees its changes, unless it failed."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    coin = coin_bytes((1, 10))
    handlers = HandlerClient(MODULE, WRITE_MODULE, store=store)
    with pytest.raises(RuntimeError, match="on purpose"):
        handlers.send(*CHANGE_AND_RAISE, coin + b"t" * 16)
    old = default_an((1, 10))
    assert handlers.send(1, 20, coin + old + b"n" * 16) == Reply(241)
    assert handlers.send(1, 10, coin + b"n" * 16) == Reply(241)
    assert handlers.send(1, 10, coin + old) == Reply(242)
    store.close()
    with pytest.raises(ValueError, match="node and store"):
        HandlerClient(node=handlers.node, store=store)


@command(group=5, code=249, mode="write")
def change_and_exceed(request: Request, node: Node) -> Reply:
    """Changes a coin, then answers with more than goes over UDP."""
    node.coins.set(request.payload, 1, 21, 1)
    return Reply(payload=bytes(2000))


@command(group=5, code=250, mode="write")
def change_and_misname(request: Request, node: Node) -> Reply:
    """Changes a coin, then answers with a status that no byte holds."""
    node.coins.set(request.payload, 1, 21, 1)
    return Reply(status=999)


@pytest.mark.parametrize("what", [classmethod(lambda _cls, _request, _node: Reply()), 5, None])
def test_what_cannot_be_called_is_no_handler(what: Any) -> None:
    """The declaration fails: a class method cannot be called before its class exists."""
    with pytest.raises(
        TypeError, match=rf"5/252: a handler is a function, not {type(what).__name__}"
    ):
        command(group=5, code=252)(what)


def test_what_a_node_does_not_take_is_no_answer_here() -> None:
    """A node would answer 252, so a test of the handler must fail."""
    handlers = HandlerClient(MODULE)
    for mistake in range(WRONG_TYPE_COUNT):
        with pytest.raises(
            TypeError, match=r"would answer 252 instead of the reply of .*wrong_type"
        ):
            handlers.send(*WRONG_TYPE, bytes([mistake]))


@pytest.mark.parametrize(
    ("transport", "encryption", "most"),
    [("tcp", 0, 65502), ("udp", 0, 65473), ("tcp", 4, 65454), ("udp", 5, 65425)],
)
def test_sizes_are_those_of_a_node(transport: Transport, encryption: int, most: int) -> None:
    settings = config.parse(
        "[server]\nraida_id = 0\n[limits]\nudp_reply_factor_max = 0\n", "test.toml"
    )
    handlers = HandlerClient(MODULE, node=Node(settings, dict, None))
    coins = tuple(Coin(0, sn, bytes(16)) for sn in range(2 if encryption == 5 else 1))
    key = Key(encryption, coins) if encryption else None
    whole = handlers.send(*BLOB, most.to_bytes(4), transport=transport, key=key)
    assert len(whole.payload) == most
    with pytest.raises(TypeError, match=f"payload has {most + 1} bytes: at most {most} go over"):
        handlers.send(*BLOB, (most + 1).to_bytes(4), transport=transport, key=key)


def test_the_factor_is_that_of_a_node() -> None:
    """A request of 54 bytes may have 16 times as many, header and terminator included."""
    handlers = HandlerClient(MODULE)
    for size, expected in ((830, 250), (831, 89)):
        assert handlers.send(*BLOB, size.to_bytes(4)).status == expected
        assert handlers.send(*BLOB, size.to_bytes(4), transport="tcp").status == 250


def test_a_handler_may_hide_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As compiled functions do, which cannot be checked before they are called."""
    (tmp_path / "compiled_commands.py").write_text(
        "from raida_uring.handlers import command\n\n\n"
        "class Compiled:\n    __call__ = max\n\n\n"
        "command(group=5, code=251)(Compiled())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert (5, 251) in [(one.group, one.code) for one in load(["compiled_commands"])]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("@command", "write @command"),
        ("@command()", "write @command"),
        ("@command(group=5)", "write @command"),
        ("@command(5, 200)", "write @command"),
    ],
)
def test_a_decorator_without_numbers_says_how_it_is_written(line: str, expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        exec(f"{line}\ndef f(request, node): ...", {"command": command})  # noqa: S102  its text


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (None, "a handler must return a Reply, not NoneType"),
        ((250, b"plain"), "a handler must return a Reply, not tuple"),
        (Reply(status=999), "status is 999: must be an integer from 0 to 255"),
        (Reply(status=-(10**5000)), "status is beyond 64 bits: must be an integer from 0 to 255"),
        (Reply("250"), "status is of type str: must be an integer from 0 to 255"),  # type: ignore[arg-type]
        (Reply(250, "text"), "payload is of type str: must be bytes"),  # type: ignore[arg-type]
        (Reply(250, None), "payload is of type NoneType: must be bytes"),  # type: ignore[arg-type]
        (Reply(), None),
        (Reply(255, bytes(9)), None),
    ],
)
def test_why_a_reply_is_invalid(reply: object, fault: str | None) -> None:
    """The words in a node's log and in a test's exception."""
    assert fault_of(reply) == fault


def test_a_store_is_named_by_text_as_well(tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    Store.create(place, map_bytes=MAP_BYTES)
    store = Store(place, map_bytes=MAP_BYTES)
    assert HandlerClient(store=store).send(1, 10, coin_bytes((1, 10)) + bytes(16)) == Reply(242)
    store.close()
    with pytest.raises(StoreError, match="nowhere: not a store"):
        Store("nowhere")


def test_slow_handlers_are_told_where_coins_are(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    with pytest.raises(StoreError, match=r"node\.read\(\)"):
        _ = HandlerClient(store=store).node.coins
    store.close()
    with pytest.raises(StoreError, match="no store"):
        _ = HandlerClient().node.coins


def test_what_a_node_takes_back_is_not_kept_here(tmp_path: Path) -> None:
    """A node undoes the changes of a failed request, and no handler may commit."""
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    handlers = HandlerClient(MODULE, WRITE_MODULE, __name__, store=store)
    changed = coin_bytes((1, 10)) + b"t" * 16
    old = default_an((1, 10))
    with pytest.raises(TypeError, match="status is 999"):
        handlers.send(5, 250, changed)
    assert store.an(1, 10) == old
    assert handlers.send(5, 249, changed) == Reply(89)
    assert store.an(1, 10) == old
    for doing in range(6):
        with pytest.raises(RuntimeError, match="a handler must not begin, end or commit"):
            handlers.send(*MEDDLE, changed + bytes([doing]))
    assert store.an(1, 10) == old
    assert handlers.send(5, 249, changed, transport="tcp") == Reply(payload=bytes(2000))
    assert store.an(1, 10) == changed[5:]
    store.close()


def test_show_stats_wraps_at_64_bits() -> None:
    """As the reference server's counters do; it must not fail for good."""
    settings = config.parse(config_text({"server": {"admin_key": "00" * 16}}), "test.toml")
    node = Node(settings, lambda: {"echoes": 0, "udp_received": 0})
    node.count_powned(3, 2**64 + 5)
    told = HandlerClient(node=node).send(0, 2, bytes(16))
    assert told.payload == struct.pack("<4Q", 0, 3, 5, 0)


@pytest.mark.parametrize(
    ("listed", "peer", "lets_in"),
    [
        ("192.0.2.7:50001", "192.0.2.7", True),
        ("192.0.2.7:50001", "192.0.2.70", False),
        ("192.0.2.7:50001", "::ffff:192.0.2.7", True),
        ("[::ffff:192.0.2.7]:50001", "192.0.2.7", True),
        ("[2001:DB8:0:0::7]:50001", "2001:db8::7", True),
        ("[::192.0.2.7]:50001", "::192.0.2.7", True),
        ("[::192.0.2.7]:50001", "192.0.2.7", False),
        ("[2001:db8::7]:50001", "2001:db8::8", False),
    ],
)
def test_pages_are_for_peers_however_their_address_is_written(
    tmp_path: Path, listed: str, peer: str, lets_in: bool
) -> None:
    """A dual-stack socket of the service manager shows IPv4 peers as IPv4-mapped ones."""
    tables: dict[str, dict[str, object]] = {
        "server": {"raida_servers": [listed] + ["198.51.100.1:1"] * 24},
        "store": {"path": str(tmp_path), "pages_for": "peers"},
    }
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    handlers = HandlerClient(store=store)
    counters = {"echoes": 0, "udp_received": 0}
    node = Node(config.parse(config_text(tables), "test.toml"), lambda: counters, store)
    node.config = config.embedded_default()  # the addresses are looked at once, when it is made
    handlers.node = node
    told = handlers.send(14, 4, bytes(5), transport="tcp", peer=(peer, 50000))
    assert (told.status, len(told.payload)) == ((250, 17408) if lets_in else (89, 0))
    store.close()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("encryption", [0, 1, 4, 5])
@pytest.mark.parametrize("peer", [("192.0.2.7", 4711), ("2001:db8::7", 4711)])
def test_what_a_handler_is_told(transport: str, encryption: int, peer: tuple[str, int]) -> None:
    coins = tuple(Coin(0, sn, bytes(16)) for sn in range(2 if encryption == 5 else 1))
    told = HandlerClient(MODULE).send(
        *DESCRIBE,
        b"payload",
        shard=3,
        transport=transport,  # type: ignore[arg-type]  # one of the two
        peer=peer,
        key=Key(encryption, coins) if encryption else None,
    )
    assert json.loads(told.payload) == {
        "group": DESCRIBE[0],
        "command": DESCRIBE[1],
        "payload": b"payload".hex(),
        "payload_type": "bytes",
        "encryption": encryption,
        "shard": 3,
        "transport": transport,
        "peer": list(peer),
    }


def test_calls() -> None:
    handlers = HandlerClient()
    assert handlers.ask(calls.version()).require() == "20250323"
    with pytest.raises(RefusedError, match="38 ADMIN_AUTH"):
        handlers.ask(calls.show_stats(bytes(16))).require()


def test_mistakes_reach_the_test() -> None:
    handlers = HandlerClient(MODULE)
    with pytest.raises(RuntimeError, match="on purpose"):
        handlers.send(*RAISE)
    with pytest.raises(TypeError, match="must return a Reply, not NoneType"):
        handlers.send(*WRONG_TYPE, b"\0")
    with pytest.raises(ConfigError, match="cannot be imported"):
        HandlerClient("tests.support.no_such_module")
    with pytest.raises(ValueError, match="no payload"):
        handlers.send(*MIRROR, b"payload", body=False)


def test_what_is_public_is_answered_under_no_key_or_a_good_one() -> None:
    """As by a node: 36 under types 1 and 2, and for every sealed one without a body but echo."""
    handlers = HandlerClient(MODULE)
    coins = tuple(Coin(0, sn, bytes(16)) for sn in range(2))
    keys = [Key(1, coins[:1]), Key(2, locker=bytes(16)), Key(4, coins[:1]), Key(5, coins)]
    for key in keys:
        short = key.encryption <= 2
        for group, code in ((0, 1), (0, 3), (2, 50), (14, 2), (14, 4), (14, 5), BARE):
            assert (handlers.send(group, code, b"any", key=key) == Reply(36)) == short
        for group, code in ((0, 1), (0, 2), (1, 10), BARE, MIRROR):
            assert handlers.send(group, code, body=False, key=key) == Reply(36)
        assert handlers.send(0, 0, body=False, key=key) == Reply(250)
        assert handlers.send(0, 0, b"any", key=key) == Reply(250)
        assert handlers.send(*MIRROR, b"any", key=key) == Reply(250, b"any")
    assert handlers.send(*BARE, body=False) == Reply(250, b"known to everybody")


@pytest.mark.parametrize(
    ("needs_body", "public", "known"),
    [(False, None, True), (True, None, False), (False, False, False), (True, True, True)],
)
def test_which_replies_are_public(needs_body: bool, public: bool | None, known: bool) -> None:
    def handler(_request: Request, _node: Node) -> Reply:
        return Reply()

    handler.__module__ = f"{__name__}.{needs_body}.{public}"
    declare = command(group=5, code=251, needs_body=needs_body, public=public)
    assert [item.public for item in commands_of(declare(handler))] == [known]
    with pytest.raises(ValueError, match="5/251: public is True, False or None, not 1"):
        command(group=5, code=251, public=1)  # type: ignore[arg-type]


def test_an_attribute_makes_no_handler_native() -> None:
    def handler(_request: Request, _node: Node) -> Reply:
        return Reply(250)

    handler.native = True  # type: ignore[attr-defined]  # means something else to its author
    [declared] = commands_of(command(group=5, code=77)(handler))
    assert not declared.native
    assert {item.number for item in load([], store=True) if item.native} == set(ROWS)
