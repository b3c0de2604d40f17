"""The built-in commands that the data plane answers itself, in ffi/commands/.

A node's workers and its I/O thread execute them without the interpreter. Here they are declared
like all other commands, and can be called like a handler: tests of handlers do that.
"""

import dataclasses
import time
from typing import Final

from raida_uring.ffi import native_command
from raida_uring.handlers.declaration import AnsweredInC, Handler, Mode, command
from raida_uring.handlers.message import Reply, Request, payload_room
from raida_uring.handlers.node import Node
from raida_uring.protocol import Status

_NOT_IMPLEMENTED: Final = Reply(Status.NOT_IMPLEMENTED)


class NativeHandler(AnsweredInC):
    """A native command as a handler, for whoever calls one without a data plane."""

    def __init__(self, row: native_command.Row) -> None:
        self._row = row
        self.__qualname__ = row.name

    def __call__(self, request: Request, node: Node) -> Reply:
        """Execute it on the coins of `node`. Raises StoreError."""
        row = self._row
        if row.needs_store and not node.has_store:
            return _NOT_IMPLEMENTED
        server = node.config.server
        facts = native_command.Facts(
            version=server.version.encode("ascii"),
            admin_key=server.admin_key,
            raida_id=server.raida_id,
        )
        facts.count(dataclasses.astuple(node.stats()))
        if (trees := node.trees) is not None:
            facts.publish(dict(enumerate(trees.nodes)))
        answer = native_command.run(
            node.coins.view if row.needs_store else None,
            facts,
            row.number,
            request.payload,
            now_s=int(time.time()),
            room=max(0, payload_room(request, node.reply_factor)),
            shard=request.shard,
        )
        effect = answer.effect
        if effect.kind == native_command.EFFECT_ECHO:
            node.count_echo()
        elif effect.kind == native_command.EFFECT_POWNED:
            node.coins.after_commit(lambda: node.count_powned(effect.coins, effect.value))
        return Reply(answer.status, answer.payload)


def _declare(row: native_command.Row) -> None:
    mode: Mode = "write" if row.writes else "read"
    handler: Handler = NativeHandler(row)
    command(
        group=row.number >> 8,
        code=row.number & 0xFF,
        mode=mode,
        needs_body=row.needs_body,
        public=row.public,
        guesses=(row.guess,) if row.guess else (),
    )(handler)


for _row in native_command.ROWS.values():
    _declare(_row)
