"""The integrity vote: one fixed-size datagram each way, without a header.

Pure. Source: docs/wire.md, "Votes".
"""

from dataclasses import dataclass

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol.layout import (
    ROOTS_SIZE,
    VOTE_FIRST_BYTE,
    VOTE_NONCE_SIZE,
    VOTE_REPLY_NONCE_AT,
    VOTE_REPLY_SIZE,
    VOTE_REPLY_VERDICT_AT,
)
from raida_uring.protocol.status import Status


@dataclass(frozen=True, slots=True)
class VoteReply:
    """agrees: the node has the same 15 roots. nonce: the vote's 16 bytes."""

    agrees: bool
    nonce: bytes


def build_vote(nonce: bytes, roots: bytes = bytes(ROOTS_SIZE)) -> bytes:
    """Return a vote of 497 bytes. Raises ArgumentError unless nonce has 16 and roots 480 bytes."""
    if len(nonce) != VOTE_NONCE_SIZE or len(roots) != ROOTS_SIZE:
        raise ArgumentError(f"nonce has {len(nonce)} bytes and roots have {len(roots)}")
    return bytes((VOTE_FIRST_BYTE,)) + roots + nonce


def parse_vote_reply(data: bytes) -> VoteReply:
    """Return what the 17 bytes of `data` say. Raises ProtocolError for any other length or verdict.

    The caller compares the nonce with the one it sent.
    """
    if len(data) != VOTE_REPLY_SIZE:
        raise ProtocolError(
            f"vote reply has {len(data)} bytes, not {VOTE_REPLY_SIZE}",
            Status.INVALID_PACKET_LENGTH,
        )
    verdict = data[VOTE_REPLY_VERDICT_AT]
    if verdict > 1:
        raise ProtocolError(f"vote reply says {verdict}, not 0 or 1", Status.INVALID_PARAMETER)
    return VoteReply(agrees=verdict == 1, nonce=data[VOTE_REPLY_NONCE_AT:])
