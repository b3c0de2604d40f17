"""Status commands, group 0: echo, version, show_stats.

Source: protocol specification, "Status group".
"""

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
    """250. Plain echoes never get here: the data plane answers them."""
    node.count_echo()
    return _OK


@command(group=0, code=1, public=True)
def version(request: Request, node: Node) -> Reply:
    """8 ASCII bytes."""
    return node.version_reply


@command(group=0, code=2, needs_body=True, guesses=(Status.ADMIN_AUTH,))
def show_stats(request: Request, node: Node) -> Reply:
    """Four counters, to whoever has the admin key: echoes, coins powned, value powned, datagrams.

    A payload that is too short for a key, and a node without a key, are 38 like a wrong key.
    """
    key = node.config.server.admin_key
    # Of one length, so that the comparison takes the same time whatever is sent.
    given = request.payload[:ADMIN_KEY_SIZE].ljust(ADMIN_KEY_SIZE, b"\0")
    right = hmac.compare_digest(given, key or bytes(ADMIN_KEY_SIZE))
    if key is None or len(request.payload) < ADMIN_KEY_SIZE or not right:
        return _REFUSED
    stats = node.stats()
    told = stats.echoes, stats.coins_powned, stats.value_powned, stats.datagrams
    # A coin of 10^6 takes the value beyond 64 bits when it changes hands often enough.
    return Reply(payload=layout.STATS.pack(*(number & _U64_MAX for number in told)))
