"""Commands that clients know and that a node without a store cannot answer.

They are registered from the start, so that a client learns "not implemented" (89) and not "no such
command" (6), and are answered 36 without a body as on every other node.
"""

from typing import Final

from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import Status

PENDING: Final = (
    (0, 3),  # audit
    (1, 10),  # detect
    (1, 11),  # detect_sum
    (1, 20),  # pown
    (1, 21),  # pown_sum
    (2, 40),  # get_ticket
    (2, 50),  # validate_ticket
    (2, 60),  # find
    (2, 80),  # fix
    (14, 2),  # get_merkle_branch
    (14, 4),  # get_page_data
    (14, 5),  # get_all_roots
)

_NOT_IMPLEMENTED: Final = Reply(Status.NOT_IMPLEMENTED)


def pending(request: Request, node: Node) -> Reply:
    """89, whatever the payload."""
    return _NOT_IMPLEMENTED


_PUBLIC: Final = frozenset(
    ((0, 3), (2, 50), (14, 2), (14, 4), (14, 5))
)  # as where there is a store

for _group, _code in PENDING:
    command(group=_group, code=_code, needs_body=True, public=(_group, _code) in _PUBLIC)(pending)
