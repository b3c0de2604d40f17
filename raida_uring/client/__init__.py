"""Asking nodes: `Client` is synchronous, `AsyncClient` asynchronous; `calls` has the requests.

    node = Client("127.0.0.1", 50009, raida_id=9)
    print(node.ask(calls.version()).require())

A request is sent once; repeating it is up to the caller. See docs/client.md.
"""

from typing import TYPE_CHECKING

from raida_uring.client.question import Answer, Transport
from raida_uring.client.sync import (
    Client,
    Exchange,
    format_endpoint,
    request,
    resolve,
    resolve_all,
)
from raida_uring.errors import ArgumentError, ProtocolError, RefusedError
from raida_uring.protocol import Coin, CoinName, calls
from raida_uring.protocol.sealing import Key

if TYPE_CHECKING:
    from raida_uring.client.aio import AsyncClient

__all__ = [
    "Answer",
    "ArgumentError",
    "AsyncClient",
    "Client",
    "Coin",
    "CoinName",
    "Exchange",
    "Key",
    "ProtocolError",
    "RefusedError",
    "Transport",
    "calls",
    "format_endpoint",
    "request",
    "resolve",
    "resolve_all",
]


def __getattr__(name: str) -> object:
    """Import AsyncClient on first use: importing asyncio takes longer than a ping."""
    if name == "AsyncClient":
        from raida_uring.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
