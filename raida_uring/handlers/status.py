"""Status commands, group 0: echo, version, show_stats.

Source: protocol specification, "Status group".
"""

import dataclasses
import hmac
from typing import Final

from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import Status, layout
from raida_uring.protocol.layout import ADMIN_KEY_SIZE

_U64_MAX: Final = 2**64 - 1
_OK: Final = Reply()
_REFUSED: Final = Reply(Status.ADMIN_AUTH)


@command(group=0, code=0, public=False)  # its reply has no payload
def echo(request: Request, node: Node) -> Reply:
    """Answer an encrypted echo with 250; the data plane answers plain ones."""
    node.count_echo()
    return _OK


@command(group=0, code=1, public=True)
def version(request: Request, node: Node) -> Reply:
    """The version, 8 ASCII bytes."""
    return node.version_reply


@command(group=0, code=2, needs_body=True, guesses=(Status.ADMIN_AUTH,))
def show_stats(request: Request, node: Node) -> Reply:
    """Four counters, protected by the admin key: echoes, coins powned, value powned, datagrams.

    A wrong key, a payload shorter than a key, and a node without a key are all answered 38.
    """
    key = node.config.server.admin_key
    # Padded, so that the comparison takes the same time for every payload.
    given = request.payload[:ADMIN_KEY_SIZE].ljust(ADMIN_KEY_SIZE, b"\0")
    right = hmac.compare_digest(given, key or bytes(ADMIN_KEY_SIZE))
    if key is None or len(request.payload) < ADMIN_KEY_SIZE or not right:
        return _REFUSED
    numbers = dataclasses.astuple(node.stats())
    # Frequent powning of a coin of 10^6 can take the value beyond 64 bits.
    return Reply(payload=layout.STATS.pack(*(number & _U64_MAX for number in numbers)))
