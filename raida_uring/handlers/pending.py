"""Commands that a node without a store knows and cannot answer.

They are registered from the start, so that a client learns "not implemented" (89) and not "no such
command" (6), and are answered 36 without a body as on every other node.
"""

from typing import Final

from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import COMMANDS, Status

_NOT_IMPLEMENTED: Final = Reply(Status.NOT_IMPLEMENTED)


def pending(request: Request, node: Node) -> Reply:
    """89, whatever the payload."""
    return _NOT_IMPLEMENTED


for _known in COMMANDS.values():
    if _known.needs_store:
        _declare = command(
            group=int(_known.group), code=_known.code, needs_body=True, public=_known.public
        )
        _declare(pending)
