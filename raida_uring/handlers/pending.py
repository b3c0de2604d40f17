"""Commands of Python that need a store, as a node without a store answers them.

They are registered anyway, so that a client gets "not implemented" (89) and not "no such command"
(6), and 36 for a request without a body, as from every other node.
"""

from typing import Final

from raida_uring.ffi.native_command import ROWS
from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import COMMANDS, Status

_NOT_IMPLEMENTED: Final = Reply(Status.NOT_IMPLEMENTED)


def pending(request: Request, node: Node) -> Reply:
    """Answer 89 to every payload."""
    return _NOT_IMPLEMENTED


for _known in COMMANDS.values():
    if _known.needs_store and int(_known.group) << 8 | _known.code not in ROWS:
        _declare = command(
            group=int(_known.group), code=_known.code, needs_body=True, public=_known.public
        )
        _declare(pending)
