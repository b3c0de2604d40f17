"""Calling handlers without a socket, for tests of commands.

    def test_greet() -> None:
        assert HandlerClient("greetings").send(5, 200, b"world") == Reply(250, b"hello world")

Omits the steps between client and handler on a real node: header decisions, CRC, encryption, limits
on requests, batches, threads. An exception in the handler propagates to the test.
"""

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from raida_uring import config, handlers, protocol
from raida_uring.client import Answer, Key, Transport
from raida_uring.client.question import TRANSPORTS
from raida_uring.errors import ArgumentError
from raida_uring.handlers import Command, Mode, Node, Reply, Request
from raida_uring.handlers.declaration import ECHO_NUMBER
from raida_uring.handlers.message import fault_of, is_sent, size_fault
from raida_uring.protocol import Status, arguments, layout, sealing
from raida_uring.protocol.calls import Call
from raida_uring.store import Store

T = TypeVar("T")

_PEER_BYTES: Final = 32  # in front of the header in a batch's data, see message.py
_FAMILY: Final = struct.Struct("=H")  # as the kernel writes it
_NO_COUNTERS: Final[Mapping[str, int]] = dict.fromkeys(("echoes", "udp_received"), 0)


class _NotSentError(Exception):
    """A reply over UDP is longer than `[limits] udp_reply_factor_max` allows."""


class HandlerClient:
    """Runs handlers without a node. Thread: one."""

    def __init__(self, *modules: str, node: Node | None = None, store: Store | None = None) -> None:
        """modules: as in `[handlers] modules`, plus the built-in commands and entry points.

        node: passed to the handlers; default: one with the embedded configuration and all counters
        zero. store: `node.coins` is a view of it, a new one for each request; the changes of a
        handler of mode "write" are committed once it returns a reply that a node sends as it is.
        There are no trees.
        Raises ConfigError as a node's start does, ArgumentError for arguments of other types or if
        both node and store are given.
        """
        for index, name in enumerate(modules):
            arguments.instance(f"modules[{index}]", name, str, "the name of a module")
        if node is not None:
            arguments.instance("node", node, Node, "a Node or None")
        if store is not None:
            arguments.instance("store", store, Store, "a Store or None")
        if node is not None and store is not None:
            raise ArgumentError("node and store are both given: a node has its own")
        self._commands = {
            item.number: item for item in handlers.load(modules, store=store is not None)
        }
        self._store = store
        self.node = node or Node(config.embedded_default(), lambda: dict(_NO_COUNTERS), store)

    @contextlib.contextmanager
    def _node_for(self, mode: Mode) -> Iterator[Node]:
        if self._store is None or mode == "slow":
            yield self.node
            return
        view = self._store.write() if mode == "write" else self._store.read()
        with view as coins, coins.lent():
            yield self.node.for_worker(coins)

    def send(
        self,
        group: int,
        command: int,
        payload: bytes = b"",
        *,
        body: bool = True,
        shard: int = 0,
        transport: Transport = "udp",
        peer: tuple[str, int] = ("127.0.0.1", 50000),
        key: Key | None = None,
    ) -> Reply:
        """Return the handler's reply, or the reply that the node gives in its place: 6 if there is
        no such command, 36 if it needs a body or the key forbids an answer, 89 if the reply over
        UDP is longer than `[limits] udp_reply_factor_max` allows.

        key: treats the request as sealed with it: public commands are answered 36 under types 1 and
        2, and so is every command but echo without a body. Raises the handler's exceptions,
        TypeError for a reply that a node would replace by 252, ArgumentError if an argument does
        not fit the wire.
        """
        arguments.whole("group", group, 0, 15)
        arguments.whole("command", command, 0, 255)
        arguments.flag("body", body)
        arguments.whole("shard", shard, 0, 3)
        arguments.choice("transport", transport, TRANSPORTS)
        payload, sender = arguments.octets("payload", payload), _address(peer)
        if key is not None:
            arguments.instance("key", key, Key, "a Key or None")
        found = self._commands.get(group << 8 | command)
        if found is None:
            return Reply(Status.INVALID_COMMAND)
        if _is_empty(found, body, key):
            return Reply(Status.EMPTY_REQUEST)
        raida_id = self.node.config.server.raida_id
        coin_id = self.node.config.server.coin_id
        if key is None:
            whole = protocol.build_request(
                group, command, payload, raida_id=raida_id, coin_id=coin_id, shard=shard, body=body
            )
        else:
            whole = sealing.seal_request(
                group,
                command,
                payload,
                key=key,
                nonce=bytes(key.nonce_bytes),
                raida_id=raida_id,
                coin_id=coin_id,
                shard=shard,
                body=body,
            )
        request = _request(whole, payload, transport, sender)
        try:
            with self._node_for(found.mode) as node:
                reply = _checked(found.name, found.handler(request, node), request)
                if not is_sent(reply.payload, request, node.config.limits.udp_reply_factor_max):
                    raise _NotSentError  # which undoes what the handler has changed
        except _NotSentError:
            return Reply(Status.NOT_IMPLEMENTED)
        return reply

    def ask(self, call: Call[T], *, transport: Transport = "udp") -> Answer[T]:
        """Answer a call of the client library, to test a handler from the caller's side.

        Raises as `send()`, and ProtocolError if the reply's payload does not fit the call.
        """
        arguments.instance("call", call, Call, "a Call, as the functions of `calls` make")
        start_s = time.perf_counter()
        status, payload = self.send(
            call.group, call.command, call.payload, body=call.body, transport=transport
        )
        accepted = status in call.statuses
        value = call.parse(status, payload) if accepted else None
        return Answer(status, accepted, value, 0, time.perf_counter() - start_s)


def _is_empty(found: Command, body: bool, key: Key | None) -> bool:
    """Whether a node answers 36 without calling the handler."""
    if key is None:
        return found.needs_body and not body
    if found.public and key.encryption in layout.SMALL_TYPES:
        return True
    return not body and not (found.number == ECHO_NUMBER and found.native)


def _checked(name: str, reply: object, request: Request) -> Reply:
    """`reply`, if a worker accepts it. Raises TypeError."""
    fault = fault_of(reply)
    if fault is None:
        assert isinstance(reply, Reply)  # noqa: S101  for the type checker
        fault = size_fault(
            len(reply.payload), udp=request.transport == "udp", encryption=request.encryption
        )
        if fault is None:
            return reply
    raise TypeError(f"a node would answer 252 instead of the reply of {name}: {fault}")


def _request(whole: bytes, payload: bytes, transport: Transport, sender: bytes) -> Request:
    """Build the request as a worker does, from a record and the bytes that it refers to."""
    header = protocol.parse_request_header(whole)
    front = sender + whole[: header.size_bytes].ljust(layout.HEADER_LARGE, b"\0")
    kind = 2 if header.encryption else int(header.body_bytes == 0)  # enum ru_request_kind
    record = (
        len(front) + (layout.CHALLENGE_SIZE if kind == 0 else 0),
        len(payload),
        header.group << 8 | header.command,
        kind,
        header.encryption,
        header.shard,
        int(transport == "tcp"),
        header.body_bytes,
    )
    return Request(payload, record, front + whole[header.size_bytes :])


def _address(peer: tuple[str, int]) -> bytes:
    """Return a socket address as the kernel writes it, 32 bytes. Raises ArgumentError."""
    parts = arguments.several("peer", peer, "of an IP address and a port")
    if len(parts) != 2:
        arguments.refuse("peer", peer, "an IP address and a port")
    try:
        address = ipaddress.ip_address(arguments.host("peer[0]", parts[0]))
    except ValueError:
        arguments.refuse("peer[0]", parts[0], "an IP address")
    port = arguments.whole("peer[1]", parts[1], 0, 65535).to_bytes(2)
    if address.version == 4:
        raw = _FAMILY.pack(socket.AF_INET) + port + address.packed
    else:
        raw = _FAMILY.pack(socket.AF_INET6) + port + bytes(4) + address.packed
    return raw.ljust(_PEER_BYTES, b"\0")
