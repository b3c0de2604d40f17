"""Wrong arguments to the client library and to raida_uring.testing.

Each raises an ArgumentError, which is a ValueError, before anything is sent. It names the argument,
its value and what is allowed, and shows no secret.
"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raida_uring import client
from raida_uring.client import AsyncClient, Client, Coin, CoinName, Key, calls
from raida_uring.errors import ArgumentError, RaidaError
from raida_uring.protocol.calls import Call
from raida_uring.store import Store
from raida_uring.testing import HandlerClient
from tests.support.handlers import DESCRIBE
from tests.support.store import MAP_BYTES, make_store

SECRET = "919d5834e92632cf67f93ab1609cbe76"
COIN = Coin(0, 8, bytes.fromhex(SECRET))
NONE: Any = None
TEXT: Any = "text"


def refused(name: str, shown: str, allowed: str, make: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert isinstance(caught.value, (RaidaError, ValueError))
    assert re.match(rf"{re.escape(name)} (=|has) {re.escape(shown)}", str(caught.value))
    assert f": must be {allowed}" in str(caught.value)
    assert SECRET not in str(caught.value)


both_clients = pytest.mark.parametrize("kind", [Client, AsyncClient])
NODE: dict[str, Any] = {"host": "127.0.0.1", "port": 50009, "raida_id": 9}


@both_clients
@pytest.mark.parametrize(
    ("name", "value", "shown", "allowed"),
    [
        ("host", "", "''", "a host name or an IP address"),
        ("host", None, "None", "a host name"),
        ("host", "a b", "'a b'", "a host name"),
        ("host", "a\0b", "'a\\x00b'", "a host name"),
        ("port", 0, "0", "an integer from 1 to 65535"),
        ("port", "50009", "'50009'", "an integer from 1 to 65535"),
        ("port", 65536, "65536", "an integer from 1 to 65535"),
        ("raida_id", 25, "25", "an integer from 0 to 24"),
        ("raida_id", True, "True", "an integer from 0 to 24"),
        ("raida_id", None, "None", "an integer from 0 to 24"),
        ("coin_id", 65536, "65536", "an integer from 0 to 65535"),
        ("transport", "sctp", "'sctp'", '"udp" or "tcp"'),
        ("transport", None, "None", '"udp" or "tcp"'),
        ("key", SECRET, "<str>", "a Key or None"),
        ("key", COIN, "<Coin>", "a Key or None"),
        ("timeout_s", 0, "0", "a number of seconds above 0"),
        ("timeout_s", -1, "-1", "a number of seconds above 0"),
        ("timeout_s", None, "None", "a number of seconds above 0"),
        ("timeout_s", float("nan"), "nan", "a number of seconds above 0"),
        ("timeout_s", float("inf"), "inf", "a number of seconds above 0"),
        ("timeout_s", 1e10, "10000000000.0", "a number of seconds above 0, at most 31536000"),
        ("timeout_s", "2", "'2'", "a number of seconds above 0"),
        ("timeout_s", 10**400, "1000", "a number of seconds above 0"),
    ],
)
def test_clients(kind: Any, name: str, value: object, shown: str, allowed: str) -> None:
    refused(name, shown, allowed, lambda: kind(**{**NODE, name: value}))


@both_clients
def test_clients_stay_as_they_were_checked(kind: Any) -> None:
    made = kind(**NODE)
    with pytest.raises(AttributeError):
        made.transport = "sctp"
    assert SECRET not in repr(kind(**NODE, key=Key(4, (COIN,))))


@both_clients
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_names_that_cannot_be(kind: Any, transport: str, host: str) -> None:
    """The same error as for an unknown name: its characters alone are allowed."""
    asked = kind(**{**NODE, "host": host, "transport": transport})

    async def wait() -> object:
        return await asked.ask(calls.echo())

    with pytest.raises(OSError, match=rf"^'{host}' cannot be a host name$"):
        asked.ask(calls.echo()) if kind is Client else asyncio.run(wait())


@both_clients
@pytest.mark.parametrize(
    ("name", "shown", "allowed", "ask"),
    [
        ("shard", "9", "an integer from 0 to 3", lambda one: one.ask(calls.echo(), shard=9)),
        ("shard", "-1", "an integer from 0 to 3", lambda one: one.ask(calls.echo(), shard=-1)),
        ("call", "<str>", "a Call", lambda one: one.ask("echo")),
        ("call", "<function>", "a Call", lambda one: one.ask(calls.echo)),
        ("timeout_s", "0", "a number of", lambda one: one.ask(calls.echo(), timeout_s=0)),
        ("timeout_s", "'1'", "a number of", lambda one: one.vote(timeout_s="1")),
        ("roots", "479 bytes", "480 bytes", lambda one: one.vote(bytes(479))),
        ("roots", "<str>", "480 bytes", lambda one: one.vote("roots")),
    ],
)
def test_questions(kind: Any, name: str, shown: str, allowed: str, ask: Callable[..., Any]) -> None:
    asked = kind(**NODE)

    async def wait() -> object:
        return await ask(asked)

    refused(name, shown, allowed, lambda: ask(asked) if kind is Client else asyncio.run(wait()))


@pytest.mark.parametrize(
    ("name", "shown", "allowed", "make"),
    [
        ("host", "''", "a host", lambda: client.request("", 1, bytes(50))),
        ("port", "0", "an integer", lambda: client.request("::1", 0, bytes(50))),
        ("data", "16 bytes", "at least 17 bytes", lambda: client.request("::1", 1, bytes(16))),
        ("data", "<str>", "bytes", lambda: client.request("::1", 1, TEXT)),
        ("transport", "'text'", '"udp" or', lambda: client.request("::1", 1, b"", transport=TEXT)),
        ("timeout_s", "0", "a number", lambda: client.request("::1", 1, bytes(50), timeout_s=0)),
        ("port", "70000", "an integer", lambda: client.resolve("::1", 70000)),
        ("host", "None", "a host", lambda: client.resolve(NONE, 1)),
        ("host", "None", "a host", lambda: client.format_endpoint(NONE, 1)),
        ("encryption", "3", "1 or 2 or 4 or 5", lambda: Key(3, (COIN,))),
        ("encryption", "4 with 2 coins", "1 or 4 with one coin", lambda: Key(4, (COIN, COIN))),
        ("coins[0]", "<str>", "a Coin", lambda: Key(1, (SECRET,))),  # type: ignore[arg-type]
        ("coins", "<Coin>", "a sequence", lambda: Key(1, COIN)),  # type: ignore[arg-type]
        ("locker", "<str>", "bytes", lambda: Key(2, locker=SECRET)),  # type: ignore[arg-type]
        ("den", "7", "an integer from -8 to 6", lambda: Coin(7, 1, bytes(16))),
        ("den", "-9", "an integer from -8 to 6", lambda: Coin(-9, 1, bytes(16))),
        ("coins", "0 items", "at least one", lambda: calls.detect([])),
        ("coins", "0 items", "at least one", lambda: calls.detect_sum([])),
        ("coins", "0 items", "at least one", lambda: calls.pown([])),
        ("coins", "0 items", "at least one", lambda: calls.pown_sum([], bytes(16))),
        ("coins", "0 items", "at least one", lambda: calls.get_ticket([])),
        ("coins", "0 items", "at least one", lambda: calls.find([])),
        ("coins", "0 items", "at least one", lambda: calls.fix([], bytes(16), [0] * 25)),
        ("sn", "'1'", "an integer from 0 to 4294967295", lambda: Coin(0, "1", bytes(16))),  # type: ignore[arg-type]
        ("an", "15 bytes", "16 bytes", lambda: Coin(0, 1, bytes(15))),
        ("an", "<str>", "16 bytes", lambda: Coin(0, 1, SECRET)),  # type: ignore[arg-type]
        ("payload", "<str>", "at most 65517 bytes", lambda: calls.echo("x")),  # type: ignore[arg-type]
        ("payload", "65518 bytes", "at most 65517 bytes", lambda: calls.echo(bytes(65518))),
        ("admin_key", "<str>", "16 bytes", lambda: calls.show_stats(SECRET)),  # type: ignore[arg-type]
        ("coins", "<Coin>", "a sequence", lambda: calls.detect(COIN)),  # type: ignore[arg-type]
        ("coins", "<str>", "a sequence", lambda: calls.detect_sum("abc")),  # type: ignore[arg-type]
        ("coins[1]", "<str>", "a Coin", lambda: calls.detect([COIN, "abc"])),  # type: ignore[list-item]
        ("coins[0]", "<CoinName>", "a Coin", lambda: calls.get_ticket([COIN.name])),  # type: ignore[list-item]
        ("coins[0]", "<Coin>", "a sequence", lambda: calls.pown([COIN])),  # type: ignore[list-item]
        ("coins[0]", "1 items", "a Coin and 16 bytes", lambda: calls.find([(COIN,)])),  # type: ignore[list-item]
        ("coins[0][1]", "<str>", "16 bytes", lambda: calls.pown([(COIN, SECRET)])),  # type: ignore[list-item]
        ("delta", "<NoneType>", "16 bytes", lambda: calls.pown_sum([COIN], NONE)),
        ("raida_id", "300", "an integer from 0 to 255", lambda: calls.validate_ticket(300, 1)),
        ("ticket", "-1", "an integer from 0 to 4294967295", lambda: calls.validate_ticket(3, -1)),
        ("coins[0]", "<Coin>", "a CoinName", lambda: calls.fix([COIN], bytes(16), [0] * 25)),  # type: ignore[list-item]
        ("tickets", "24 items", "25", lambda: calls.fix([COIN.name], bytes(16), [0] * 24)),
        (
            "tickets[24]",
            "'text'",
            "an integer",
            lambda: calls.fix([COIN.name], bytes(16), [0] * 24 + [TEXT]),
        ),
        ("number_seed", "1 bytes", "16 bytes", lambda: calls.fix([], b"1", [0] * 25)),
        ("level", "-1", "an integer", lambda: calls.get_merkle_branch(0, -1, 0)),
        ("index", "None", "an integer", lambda: calls.get_merkle_branch(0, 0, NONE)),
        ("den", "200", "an integer", lambda: calls.get_page_data(200, 0)),
        ("page", "1.5", "an integer", lambda: calls.get_page_data(0, 1.5)),  # type: ignore[arg-type]
        ("own", "1 bytes", "480 bytes", lambda: calls.get_all_roots(b"1")),
        ("group", "16", "an integer from 0 to 15", lambda: call(group=16)),
        ("command", "'1'", "an integer from 0 to 255", lambda: call(command="1")),
        ("payload", "1 bytes", "empty without a body", lambda: call(payload=b"x", body=False)),
        ("statuses", "300", "an integer from 0 to 255", lambda: call(statuses={300})),
        ("statuses", "<int>", "a sequence", lambda: call(statuses=250)),
        ("read", "None", "a function", lambda: call(read=None)),
        ("body", "1", "True or False", lambda: call(body=1)),
    ],
)
def test_other_functions(name: str, shown: str, allowed: str, make: Callable[[], object]) -> None:
    refused(name, shown, allowed, make)


def call(**given: Any) -> Call[Any]:
    usual: dict[str, Any] = {"group": 5, "command": 1, "payload": b"", "statuses": {250}}
    return Call(**{**usual, "read": lambda _status, data: data, **given})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_missing_is_missing_in_what_was_called(kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) missing .*'raida_id'$"):
        kind("h", 1)


def test_a_coin_that_no_name_fits() -> None:
    with pytest.raises(ArgumentError, match="no coin 0/-1"):
        calls.fix([CoinName(0, -1)], bytes(16), [0] * 25)


@pytest.mark.parametrize(
    ("name", "shown", "allowed", "given"),
    [
        ("group", "16", "an integer from 0 to 15", {"group": 16}),
        ("command", "456", "an integer from 0 to 255", {"group": 4, "command": 456}),
        ("payload", "<str>", "bytes", {"payload": "text"}),
        ("body", "0", "True or False", {"body": 0}),
        ("shard", "4", "an integer from 0 to 3", {"shard": 4}),
        ("transport", "'sctp'", '"udp" or "tcp"', {"transport": "sctp"}),
        ("peer", "<str>", "a sequence", {"peer": "127.0.0.1:1"}),
        ("peer", "('::1',)", "an IP address and a port", {"peer": ("::1",)}),
        ("peer[0]", "'localhost'", "an IP address", {"peer": ("localhost", 1)}),
        ("peer[1]", "70000", "an integer from 0 to 65535", {"peer": ("::1", 70000)}),
        ("key", "<str>", "a Key or None", {"key": SECRET}),
    ],
)
def test_handler_client_send(name: str, shown: str, allowed: str, given: dict[str, Any]) -> None:
    handlers = HandlerClient("tests.support.handlers")
    group, command = DESCRIBE
    usual: dict[str, Any] = {"group": group, "command": command}
    refused(name, shown, allowed, lambda: handlers.send(**{**usual, **given}))


def test_handler_client(tmp_path: Path) -> None:
    refused("modules[1]", "<NoneType>", "the name of a module", lambda: HandlerClient("os", NONE))
    refused("node", "<str>", "a Node or None", lambda: HandlerClient(node=TEXT))
    refused("store", "<str>", "a Store or None", lambda: HandlerClient(store=TEXT))
    refused("call", "<str>", "a Call", lambda: HandlerClient().ask(TEXT))
    refused(
        "transport", "'text'", '"udp"', lambda: HandlerClient().ask(calls.echo(), transport=TEXT)
    )
    store = Store(make_store(tmp_path / "store"), map_bytes=MAP_BYTES)
    with pytest.raises(ArgumentError, match="node and store are both given"):
        HandlerClient(node=HandlerClient().node, store=store)
    store.close()
