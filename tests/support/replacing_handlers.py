"""Handlers that take the place of native commands, registered through `[handlers] modules`."""

from raida_uring.handlers import Node, Reply, Request, command

ANSWER = b"not the built-in one"


@command(group=0, code=0, public=False)
def echo(request: Request, node: Node) -> Reply:
    """What only a handler of Python says of itself; shorter than a block of a key stream."""
    return Reply(payload=ANSWER[:15])


@command(group=1, code=10)
def detect(request: Request, node: Node) -> Reply:
    """The payload, and whether there are coins."""
    return Reply(payload=ANSWER + bytes((node.has_store,)) + request.payload)
