"""The integrity vote: one fixed-size datagram each way, without a header.

Pure. Source: wire specification, section 7.
"""

from dataclasses import dataclass
from typing import Final

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol.status import Status

VOTE_FIRST_BYTE: Final = 7
ROOTS_BYTES: Final = 15 * 32  # denominations -8 to 6; zeros for a missing root
NONCE_BYTES: Final = 16
VOTE_BYTES: Final = 1 + ROOTS_BYTES + NONCE_BYTES
VOTE_REPLY_BYTES: Final = 1 + NONCE_BYTES


@dataclass(frozen=True, slots=True)
class VoteReply:
    """agrees: the node has the same 15 roots. nonce: the vote's 16 bytes."""

    agrees: bool
    nonce: bytes


def build_vote(nonce: bytes, roots: bytes = bytes(ROOTS_BYTES)) -> bytes:
    """Return a vote of 497 bytes. Raises ArgumentError unless nonce has 16 and roots 480 bytes."""
    if len(nonce) != NONCE_BYTES or len(roots) != ROOTS_BYTES:
        raise ArgumentError(f"nonce has {len(nonce)} bytes and roots have {len(roots)}")
    return bytes((VOTE_FIRST_BYTE,)) + roots + nonce


def parse_vote_reply(data: bytes) -> VoteReply:
    """Return what the 17 bytes of `data` say. Raises ProtocolError for any other length or verdict.

    The caller compares the nonce with the one it sent.
    """
    if len(data) != VOTE_REPLY_BYTES:
        raise ProtocolError(
            f"vote reply has {len(data)} bytes, not {VOTE_REPLY_BYTES}",
            Status.INVALID_PACKET_LENGTH,
        )
    if data[0] > 1:
        raise ProtocolError(f"vote reply says {data[0]}, not 0 or 1", Status.INVALID_PARAMETER)
    return VoteReply(agrees=data[0] == 1, nonce=data[1:])
