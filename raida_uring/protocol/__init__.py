"""The wire protocol: bytes to values and back. No socket, no clock, no C module.

Offsets and sizes are in `layout`; the names that this package gives them are the older ones.
"""

from raida_uring.protocol.coin import Coin, CoinName
from raida_uring.protocol.commands import COMMANDS, CommandName, Group, command_name
from raida_uring.protocol.layout import AN_SIZE as AN_BYTES
from raida_uring.protocol.layout import BODY_MAX as BODY_BYTES_MAX
from raida_uring.protocol.layout import CHALLENGE_RANDOM_SIZE as CHALLENGE_RANDOM_BYTES
from raida_uring.protocol.layout import CHALLENGE_SIZE as CHALLENGE_BYTES
from raida_uring.protocol.layout import DENOMINATIONS, TERMINATOR, VOTE_FIRST_BYTE
from raida_uring.protocol.layout import GROUPS_COUNT as GROUP_COUNT
from raida_uring.protocol.layout import HEADER_LARGE as LONG_HEADER_BYTES
from raida_uring.protocol.layout import HEADER_SMALL as HEADER_BYTES
from raida_uring.protocol.layout import PLAIN_BODY_MIN as BODY_OVERHEAD_BYTES
from raida_uring.protocol.layout import REPLY_PREFIX_SIZE as PREFIX_BYTES
from raida_uring.protocol.layout import REQUEST_ENCRYPTION_AT as ENCRYPTION_OFFSET
from raida_uring.protocol.layout import ROOTS_SIZE as ROOTS_BYTES
from raida_uring.protocol.layout import VOTE_NONCE_SIZE as NONCE_BYTES
from raida_uring.protocol.layout import VOTE_REPLY_SIZE as VOTE_REPLY_BYTES
from raida_uring.protocol.layout import VOTE_SIZE as VOTE_BYTES
from raida_uring.protocol.reply import (
    ParsedReply,
    parse_reply,
    reply_bytes,
    reply_header_bytes,
)
from raida_uring.protocol.request import (
    RequestHeader,
    build_front,
    build_request,
    crc32_challenge,
    header_bytes,
    parse_request_header,
)
from raida_uring.protocol.status import Status, status_name
from raida_uring.protocol.vote import VoteReply, build_vote, parse_vote_reply

__all__ = [
    "AN_BYTES",
    "BODY_BYTES_MAX",
    "BODY_OVERHEAD_BYTES",
    "CHALLENGE_BYTES",
    "CHALLENGE_RANDOM_BYTES",
    "COMMANDS",
    "DENOMINATIONS",
    "ENCRYPTION_OFFSET",
    "GROUP_COUNT",
    "HEADER_BYTES",
    "LONG_HEADER_BYTES",
    "NONCE_BYTES",
    "PREFIX_BYTES",
    "ROOTS_BYTES",
    "TERMINATOR",
    "VOTE_BYTES",
    "VOTE_FIRST_BYTE",
    "VOTE_REPLY_BYTES",
    "Coin",
    "CoinName",
    "CommandName",
    "Group",
    "ParsedReply",
    "RequestHeader",
    "Status",
    "VoteReply",
    "build_front",
    "build_request",
    "build_vote",
    "command_name",
    "crc32_challenge",
    "header_bytes",
    "parse_reply",
    "parse_request_header",
    "parse_vote_reply",
    "reply_bytes",
    "reply_header_bytes",
    "status_name",
]
