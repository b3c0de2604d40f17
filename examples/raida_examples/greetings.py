"""Command 7/200: hello, and the payload back."""

from raida_uring.handlers import Node, Reply, Request, command


@command(group=7, code=200)
def greet(request: Request, node: Node) -> Reply:
    """hello, and the payload back."""
    return Reply(payload=b"hello " + request.payload)
