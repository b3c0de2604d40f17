"""The node that a client asks, and how: shared by both clients.

Pure. Any thread.
"""

import os
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

from raida_uring import protocol
from raida_uring.client.question import TRANSPORTS, Question, Transport
from raida_uring.protocol import arguments
from raida_uring.protocol.calls import Call
from raida_uring.protocol.layout import RAIDA_COUNT
from raida_uring.protocol.sealing import Key

T = TypeVar("T")


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
        arguments.whole("raida_id", self.raida_id, 0, RAIDA_COUNT - 1)
        arguments.whole("coin_id", self.coin_id, 0, 65535)
        arguments.choice("transport", self.transport, TRANSPORTS)
        if self.key is not None:
            arguments.instance("key", self.key, Key, "a Key or None")
        arguments.timeout("timeout_s", self.timeout_s)

    def _question(self, call: Call[T], shard: int) -> Question[T]:
        """Raises ArgumentError."""
        return Question(
            call,
            raida_id=self.raida_id,
            coin_id=self.coin_id,
            key=self.key,
            shard=shard,
            transport=self.transport,
        )

    def _timeout_s(self, given: float | None) -> float:
        """Raises ArgumentError."""
        return self.timeout_s if given is None else arguments.timeout("timeout_s", given)


def make_vote(roots: bytes) -> tuple[bytes, bytes]:
    """Return a vote's datagram and its nonce. Raises ArgumentError unless roots has 480 bytes."""
    nonce = os.urandom(protocol.NONCE_BYTES)
    given = arguments.octets("roots", roots, protocol.ROOTS_BYTES)
    return protocol.build_vote(nonce, given), nonce
