"""Command handlers: what a request looks like, how a handler is written, which ones there are.

A handler is a function of the request and the node that returns a `Reply`:

    @command(group=5, code=200)
    def greet(request: Request, node: Node) -> Reply:
        return Reply(payload=b"hello")

The node finds it in a module of `[handlers] modules` or behind an entry point of the group
`raida_uring.commands`. Handlers run on worker threads, several at a time; one that raises is
answered 252 and logged.
"""

from raida_uring.handlers.declaration import Command, Handler, Mode, command
from raida_uring.handlers.loading import load
from raida_uring.handlers.message import Reply, Request
from raida_uring.handlers.node import Node

__all__ = ["Command", "Handler", "Mode", "Node", "Reply", "Request", "command", "load"]
