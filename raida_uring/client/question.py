"""What both clients share: the node asked, one question, and what counts as its reply.

No socket, no clock. Randomness (challenge, nonce, echo) comes from the system's generator. Any
thread. Source: docs/wire.md.
"""

import contextlib
import errno
import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Final, Generic, Literal, TypeVar

from raida_uring import protocol
from raida_uring.addresses import format_endpoint
from raida_uring.errors import ArgumentError, ProtocolError, RefusedError
from raida_uring.protocol import ParsedReply, Status, arguments, layout, sealing
from raida_uring.protocol.calls import Call
from raida_uring.protocol.reply import EARLY_STATUSES
from raida_uring.protocol.sealing import Key

T = TypeVar("T")
Transport = Literal["udp", "tcp"]

TRANSPORTS: Final = ("udp", "tcp")
DATAGRAM_BYTES_MAX: Final = 65535  # no datagram is longer

# The key coins in a large reply header.
_COIN: Final = slice(layout.REPLY_LARGE_COIN_AT, layout.REPLY_LARGE_COIN_AT + layout.COIN_NAME_SIZE)
_SECOND_COIN: Final = slice(
    layout.REPLY_LARGE_SECOND_COIN_AT, layout.REPLY_LARGE_SECOND_COIN_AT + layout.COIN_NAME_SIZE
)
_NO_ECHO: Final = bytes(layout.ECHO_SIZE)
_NO_PROOF: Final = bytes(protocol.CHALLENGE_BYTES)

# Refusals sent before the echo bytes are read: the reply has at most the group of the request.
_WITHOUT_ECHO: Final = EARLY_STATUSES | {Status.INVALID_ENCRYPTION_CODE}
# Refusals sent without reading the body, or of public commands under types 1 and 2: the reply has
# no proof. The reference server's 37 has the challenge as it decrypted it.
_WITHOUT_PROOF: Final = frozenset(
    (
        Status.INVALID_PACKET_LENGTH,
        Status.INVALID_EOF,
        Status.INVALID_ENCRYPTION,
        Status.EMPTY_REQUEST,
        Status.INVALID_CRC,
        Status.REQUEST_RATE,
        Status.FILESYSTEM,
        Status.INTERNAL,
        Status.MEMORY_ALLOC,
    )
)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The answer of a node.

    status: 0 to 255, see `raida_uring.protocol.Status`. accepted: whether the node answered the
    question; value: its answer, None if it refused. server_time_us: processing time as reported by
    the node. round_trip_s: from the first byte sent (over TCP: from connecting) to the last
    received. remark: a further cause of the status and its remedy, as text; usually empty.
    """

    status: int
    accepted: bool
    value: T | None
    server_time_us: int
    round_trip_s: float
    remark: str = ""

    def require(self) -> T:
        """Return the value. Raises RefusedError if the node refused."""
        if not self.accepted:
            raise RefusedError(self.status, protocol.status_name(self.status), self.remark)
        return self.value  # type: ignore[return-value]  # accepted: it is a T


@dataclass(frozen=True)
class Peer:
    """host: name or IP address. raida_id: 0 to 24. key: encrypts requests; None: send them in the
    clear. timeout_s: for a whole exchange.

    Raises ArgumentError for a value that is not allowed.
    """

    host: str
    port: int
    _: KW_ONLY
    raida_id: int
    coin_id: int = 6
    transport: Transport = "udp"
    key: Key | None = None
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        arguments.host("host", self.host)
        arguments.port("port", self.port)
        arguments.whole("raida_id", self.raida_id, 0, layout.RAIDA_COUNT - 1)
        arguments.whole("coin_id", self.coin_id, 0, 65535)
        arguments.choice("transport", self.transport, TRANSPORTS)
        if self.key is not None:
            arguments.instance("key", self.key, Key, "a Key or None")
        arguments.timeout("timeout_s", self.timeout_s)

    def _timeout_s(self, given: float | None) -> float:
        """Raises ArgumentError."""
        return self.timeout_s if given is None else arguments.timeout("timeout_s", given)


class StrayError(ProtocolError):
    """These bytes are not the reply to the request that was sent."""


class Question(Generic[T]):
    """A call prepared for one node: send `data` once and pass the bytes received to `read()`."""

    def __init__(self, peer: Peer, call: Call[T], shard: int) -> None:
        """Raises ArgumentError when a value does not fit the wire, or the request a datagram."""
        arguments.instance("call", call, Call, "a Call, as the functions of `calls` make")
        arguments.whole("shard", shard, 0, layout.SHARDS_COUNT - 1)
        self._call = call
        self._peer = peer
        self._key = key = peer.key
        self._challenge = os.urandom(protocol.CHALLENGE_RANDOM_BYTES)
        self._nonce = os.urandom(layout.ECHO_SIZE if key is None else key.nonce_bytes)
        self._echo = self._nonce[-layout.ECHO_SIZE :]
        make = (
            partial(protocol.build_request, echo=int.from_bytes(self._echo))
            if key is None
            else partial(sealing.seal_request, key=key, nonce=self._nonce)
        )
        self.data = make(
            call.group,
            call.command,
            call.payload,
            raida_id=peer.raida_id,
            coin_id=peer.coin_id,
            shard=shard,
            challenge=self._challenge,
            body=call.body,
        )
        if peer.transport == "udp" and len(self.data) > layout.UDP_PAYLOAD_MAX:
            raise ArgumentError(
                f"a request of {len(self.data)} bytes does not fit a datagram of at most "
                f'{layout.UDP_PAYLOAD_MAX} bytes: ask with transport="tcp"'
            )

    @property
    def encryption(self) -> int:
        """The request's encryption type."""
        return 0 if self._key is None else self._key.encryption

    def read(self, data: bytes, round_trip_s: float) -> Answer[T]:
        """Return the answer in `data`.

        Raises StrayError if `data` is not a reply, is the reply to another request, or is forged
        (types 4 and 5); ProtocolError if it is the reply and its payload does not fit the call.
        """
        try:
            reply = protocol.parse_reply(data, self.encryption)
            self._check_ours(reply)
            payload = reply.payload
            if self._key is not None:
                payload = sealing.open_reply(reply, key=self._key, nonce=self._nonce)
        except ProtocolError as error:
            raise StrayError(str(error), error.status) from None
        accepted = reply.status in self._call.statuses
        value = self._call.parse(reply.status, payload) if accepted else None
        remark = "" if accepted else self._remark(reply)
        return Answer(reply.status, accepted, value, reply.server_time_us, round_trip_s, remark)

    def _remark(self, reply: ParsedReply) -> str:
        """Return a cause that the status does not name, such as a limit on datagrams; may be
        empty."""
        status = reply.status
        if status == Status.INVALID_RAIDA_ID:
            return f"the node is RAIDA {reply.raida_id}"
        if status == Status.EMPTY_REQUEST and self.encryption in (1, 2) and self._call.body:
            return (
                "public commands are not answered under encryption types 1 and 2: ask without a "
                "key, or under type 4 or 5"
            )
        udp = self._peer.transport == "udp"
        if status == Status.NOT_IMPLEMENTED:
            known = protocol.COMMANDS.get((self._call.group, self._call.command))
            about_coins = known is not None and known.needs_store
            pages = known is not None and known.name == "get_page_data"
            causes = [
                (about_coins, "a node without a coin store answers so"),
                (pages, "so does one that hands out no pages ([store] pages_for)"),
                (udp, "this is also the answer if the reply is too long for UDP: ask over TCP"),
            ]
            return "; ".join(text for possible, text in causes if possible)
        if not udp:
            return ""
        if status == Status.INVALID_PACKET_LENGTH and len(self.data) > layout.UDP_PAYLOAD_MIN:
            return (
                f"the request's {len(self.data)} bytes may exceed the node's limit for UDP "
                "(udp_effective_payload): ask over TCP"
            )
        return ""

    def _check_ours(self, reply: ParsedReply) -> None:
        asked = self._peer.raida_id
        if reply.raida_id != asked and reply.status != Status.INVALID_RAIDA_ID:
            raise _stray(f"node {reply.raida_id} answers, {asked} was asked")
        if reply.status in _WITHOUT_ECHO:
            if reply.echo != _NO_ECHO or reply.body:
                raise _stray("an early refusal repeats bytes of another request")
            return
        if (reply.group, reply.echo) != (self._call.group, self._echo):
            raise _stray(f"group {reply.group}, echo {reply.echo.hex()} answer another request")
        if self._key is None or self._key.encryption in layout.SMALL_TYPES:
            self._check_proof(reply)
        else:
            coins = b"".join(coin.name.wire for coin in self._key.coins)
            reply_coins = reply.header[_COIN]
            if len(self._key.coins) > 1:
                reply_coins += reply.header[_SECOND_COIN]
            encryption = reply.header[layout.REPLY_LARGE_ENCRYPTION_AT]
            if encryption != self._key.encryption or reply_coins != coins:
                raise _stray("reply names other key coins")

    def _check_proof(self, reply: ParsedReply) -> None:
        proof = _NO_PROOF
        if self._call.body:
            proof = sealing.prove_challenge(self._challenge, self._key)
        if hmac.compare_digest(reply.challenge, proof):
            return
        if reply.status not in _WITHOUT_PROOF or reply.body:
            raise _stray("reply does not prove that this request was read")
        if reply.status != Status.INVALID_CRC and reply.challenge != _NO_PROOF:
            raise _stray("reply proves that another request was read")


def _stray(message: str) -> StrayError:
    return StrayError(f"not the reply to this request: {message}", Status.INVALID_PARAMETER)


def make_vote(roots: bytes) -> tuple[bytes, Callable[[bytes, float], bool]]:
    """Return a vote's datagram, and a function that reads its reply or raises StrayError. Raises
    ArgumentError unless roots has 480 bytes."""
    nonce = os.urandom(protocol.NONCE_BYTES)
    given = arguments.octets("roots", roots, protocol.ROOTS_BYTES)

    def read(data: bytes, _round_trip_s: float) -> bool:
        try:
            reply = protocol.parse_vote_reply(data)
        except ProtocolError as error:
            raise StrayError(str(error), error.status) from None
        if reply.nonce != nonce:
            raise _stray("another vote's nonce")
        return reply.agrees

    return protocol.build_vote(nonce, given), read


@contextlib.contextmanager
def naming(host: str, port: int) -> Iterator[None]:
    """Add the endpoint to the text of an OSError, since callers may ask many nodes."""
    try:
        yield
    except OSError as error:
        endpoint = format_endpoint(host, port)
        if error.errno is None and isinstance(error, TimeoutError):
            raise TimeoutError(f"{endpoint}: {error}") from None
        if error.errno is None:
            raise  # the text is already ours
        # Negative: a resolver's code, with its text. asyncio's texts for an errno say less.
        reason = error.strerror if error.errno < 0 else os.strerror(error.errno)
        raise type(error)(error.errno, f"{endpoint}: {reason}") from error


def telling(former: OSError | None, error: OSError) -> OSError:
    """Of the faults of two addresses of a node, in order, the one to raise: the later one, unless
    this machine lacks its family, which says nothing about the node."""
    return former if former is not None and error.errno == errno.EAFNOSUPPORT else error


def explain_timeout(strays: list[StrayError]) -> TimeoutError:
    """Return the error for an exchange in which only `strays` arrived."""
    ignored = f"; {len(strays)} datagrams ignored, the last: {strays[-1]}" if strays else ""
    return TimeoutError(f"timed out{ignored}")
