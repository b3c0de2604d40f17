"""Command 7/201: in which month each coin last changed hands, told to whoever has its AN."""

from typing import Final

from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import Status
from raida_uring.store import AN_BYTES, COIN_BYTES, EQUAL

COIN_AN: Final = COIN_BYTES + AN_BYTES  # denomination, serial number, AN
RECORD_BYTES: Final = AN_BYTES + 1  # a coin in the store: AN, month


@command(group=7, code=201, needs_body=True)
def month_of_change(request: Request, node: Node) -> Reply:
    """A byte for each coin of 21 bytes: months since February 2023; 0 where the AN is wrong.

    The reply depends on ANs that the request has shown, so strangers cannot know it: the command
    is not `public`, and is answered under every encryption type. Without a right AN it would be
    zeros, which anybody can know, so then the reply is a status alone.
    """
    count, rest = divmod(len(request.payload), COIN_AN)
    if rest or not count:
        return Reply(Status.COINS_NOT_DIV)
    states = node.coins.match(request.payload, count, COIN_AN)
    if EQUAL not in states:
        return Reply(Status.ALL_FAIL)
    records, _ = node.coins.gather(request.payload, count, COIN_AN)
    months = records[RECORD_BYTES - 1 :: RECORD_BYTES]
    return Reply(
        payload=bytes(
            month if state == EQUAL else 0 for month, state in zip(months, states, strict=True)
        )
    )
