"""What a worker keeps of encrypted requests between their opening and their replies.

What must hold: a handler that is called again for the same request, as after a failed transaction,
gets the same payload; a reply that was decided elsewhere is sealed, too; nothing of one batch is
left for the next.

At the end, a handler that never returns delays the stop for a moment only, and a worker that is
late to leave does not count as one.
"""

import struct
import threading

from raida_uring import config
from raida_uring.ffi import native
from raida_uring.handlers import Node, Reply, Request
from raida_uring.protocol import Coin, parse_reply, sealing
from raida_uring.protocol.sealing import Key
from raida_uring.workers.worker import Worker, _Gate, _Sealed, join_all
from tests.support.coins import Coins

COINS = Coins()
COIN = Coin(0, 8, COINS.an(0, 8) or b"")
KEY = Key(4, (COIN,))
NODE = Node(config.embedded_default(), dict)


class Open(_Gate):
    """Without a data plane, so that no source is limited."""

    def tells(self, request: Request, *, failed: bool) -> bool:
        return True


def sealed_batch(payload: bytes) -> tuple[Request, bytes]:
    """The only request of a batch, as a worker makes it, and the batch's records."""
    data = sealing.seal_request(0, 1, payload, key=KEY, nonce=bytes(24), raida_id=0)
    fields = (80, len(data) - 48, 1, native.KIND_SEALED, 4, 0, 0, len(data) - 48)
    packed = struct.pack("<QIIHBBBBH16x", 1, *fields)
    return Request(data[48:], fields, bytes(32) + data), packed


def mirror(request: Request, _node: Node) -> Reply:
    return Reply(payload=request.payload)


def read(sealed: bytes) -> bytes:
    """The payload behind nonce and body as they are handed to the data plane."""
    size = len(sealed) - 22 + 2
    header = bytes(9) + size.to_bytes(3) + bytes(12) + sealed[:22] + bytes(2)
    reply = parse_reply(header + sealed[22:] + b">>", 4)
    return sealing.open_reply(reply, key=KEY, nonce=bytes(24))


def test_called_twice() -> None:
    sealed = _Sealed(COINS, Open())
    handler = sealed.handler(mirror, mirror)
    request, records = sealed_batch(b"payload")
    assert handler(request, NODE) == handler(request, NODE) == Reply(payload=b"payload")
    replies = [Reply(252, b"decided on elsewhere")]
    sealed.seal(records, replies)
    assert replies[0].status == 252
    assert read(replies[0].payload) == b"decided on elsewhere"


def test_nothing_is_left_for_the_next_batch() -> None:
    sealed = _Sealed(COINS, Open())
    handler = sealed.handler(mirror, mirror)
    request, records = sealed_batch(b"first")
    handler(request, NODE)
    sealed.begin()
    replies = [Reply(25)]
    sealed.seal(records, replies)
    assert replies == [Reply(25)]
    second, records = sealed_batch(b"second")
    replies = [handler(second, NODE)]
    sealed.seal(records, replies)
    assert read(replies[0].payload) == b"second"


class Waiting(Worker):
    """A worker that leaves when it is told to."""

    def __init__(self, *, serving: bool) -> None:
        self.serving = serving
        self.leave = threading.Event()
        self.thread = threading.Thread(target=self.leave.wait, name="waiting", daemon=True)
        self.thread.start()


class Joined(threading.Thread):
    """Knows whether it was joined after its end, which Python 3.13 needs to free the stack."""

    joined = False

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        self.joined = not self.is_alive()


def test_threads_that_have_ended_are_joined() -> None:
    ended = Waiting(serving=False)
    ended.leave.set()
    ended.thread = joined = Joined(target=bool, daemon=True)
    joined.start()
    threading.Thread.join(joined)  # which it does not note
    assert join_all([ended]) == []
    assert joined.joined


def test_a_worker_without_a_handler_is_waited_for() -> None:
    late, stuck = Waiting(serving=False), Waiting(serving=True)
    found: list[str] = []
    joining = threading.Thread(
        target=lambda: found.extend(join_all([stuck, late], handler_timeout_s=0.0)), daemon=True
    )
    joining.start()
    joining.join(0.2)  # an end by now would be a failure, whatever the machine's pace
    assert joining.is_alive()
    late.leave.set()
    joining.join()
    assert found == ["waiting"]
    stuck.leave.set()
    stuck.thread.join()


def test_a_worker_that_never_leaves_does_not_delay_the_end() -> None:
    idle = Waiting(serving=False)
    assert join_all([idle], leave_timeout_s=0.0) == ["waiting"]
    idle.leave.set()
    assert join_all([idle]) == []
