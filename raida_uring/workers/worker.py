"""Worker threads: take a batch, run the handlers, return the replies.

A request costs a few hundred bytecodes here and a share of four C calls per batch. What needs no
handler (header, length, body check, encryption, reply header) is done by ffi/engine/ without the
interpreter lock.
"""

import contextlib
import functools
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from raida_uring.errors import StoreError
from raida_uring.ffi import native, native_store
from raida_uring.ffi.native_worker import KIND_BARE, KIND_SEALED, KINDS, RECORD_FORMAT
from raida_uring.ffi.native_worker import Worker as NativeWorker
from raida_uring.handlers import Command, Handler, Node, Reply, Request
from raida_uring.handlers.declaration import name_of
from raida_uring.handlers.message import PAYLOAD_FITS, fault_of, is_sent, pack, size_fault
from raida_uring.log import events
from raida_uring.protocol import Status
from raida_uring.protocol.layout import COMMANDS_COUNT
from raida_uring.store import Coins
from raida_uring.workers.thread import FAULT_INTERVAL_S, WorkerThread

TURN_S: Final = 0.010  # of handlers that change coins, before others that do have their turn
TAKE_TIMEOUT_MS: Final = 60_000  # nothing depends on it: the data plane wakes the thread
# For workers to end once the data plane has ended. A handler that outlasted the drain may never
# return; any other worker ends as soon as a busy machine gives it a processor.
HANDLER_TIMEOUT_S: Final = 1.0
LEAVE_TIMEOUT_S: Final = 10.0
_JOIN_INTERVAL_S: Final = 0.05  # between looks whether a handler has returned

_Record = tuple[int, ...]
_ITER_RECORDS: Final = struct.Struct(RECORD_FORMAT).iter_unpack
_INTERNAL: Final = Reply(Status.INTERNAL)
_EMPTY: Final = Reply(Status.EMPTY_REQUEST)
_UNUSED: Final = contextlib.nullcontext()
_STORE_FAILED: Final = Reply(Status.FILESYSTEM)
_STORE_FAULT: Final = -1  # in place of a command's number
_LIMITED: Final = Reply(Status.REQUEST_RATE)  # whether it is sent, the data plane decides


def _refuse_bare(_request: Request, _node: Node) -> Reply:
    return _EMPTY


def _unknown(_request: Request, _node: Node) -> Reply:
    return _INTERNAL  # the data plane hands out registered commands only


class _NotToldError(Exception):
    """A handler has checked a secret, and the sender must not learn the result."""


class _Gate:
    """Decides who may learn the result of checking a secret: ffi/guard/guard.h. Thread: worker."""

    worker: NativeWorker  # the data plane's side; open before the first request

    def may_check(self, request: Request) -> bool:
        """Before a check that changes something."""
        return self.worker.may_check(request._record[0])

    def tells(self, request: Request, *, failed: bool) -> bool:
        """After a check: whether its sender may learn the result. A failure counts against it."""
        return self.worker.checked(request._record[0], failed=failed)

    def guard(self, command: Command) -> Handler:
        """The handler of a command that checks a secret of its own."""
        handler, guesses = command.handler, command.guesses

        @functools.wraps(handler)
        def guarded(request: Request, node: Node) -> Reply:
            if not self.may_check(request):
                return _LIMITED
            reply = handler(request, node)
            reply_status = getattr(reply, "status", None)
            failed = reply_status in guesses
            # Anybody can make another RAIDA ask for a wrong ticket, by `fix`.
            made_up = failed and reply_status == Status.NO_TICKET_FOUND
            if made_up and request.transport == "tcp" and node.is_raida(request.peer[0]):
                return reply
            if not self.tells(request, failed=failed):
                raise _NotToldError
            return reply

        return guarded


class _Opener:
    """Has the data plane open the encrypted requests of one worker. Thread: worker."""

    def __init__(self, coins: Coins | None, keys: Coins | None) -> None:
        """coins: the worker's own view, which has begun whenever there are requests. keys: a view
        of its own for key coins, begun for each look-up; None: they are in `coins`."""
        self._coins = coins
        self._keys = keys
        self.worker: NativeWorker  # open before the first request

    def open_batch(self, count: int) -> int:
        """How many of `count` requests are left to answer: the first of the records. Raises
        StoreError, with none opened."""
        if not self.worker.sealed:
            return count
        if self._keys is None:  # without the cost of a `with` block
            return self.worker.unseal(_view_of(self._coins))
        with self._begun(self._keys) as keys:
            return self.worker.unseal(keys.view)

    def handler(self, plain: Handler) -> Handler:
        """The handler of one command for requests that are opened one by one, because a request
        before them may change their key. It may be called again for the same request."""

        def open_and_answer(request: Request, node: Node) -> Reply:
            refusal, payload = self._open_one(request._record[0])
            if refusal:
                return Reply(refusal)
            request.payload = payload
            return plain(request, node)

        return open_and_answer

    def _open_one(self, payload_at: int) -> tuple[int, bytes]:
        if self._keys is None:
            return self.worker.unseal_at(payload_at, _view_of(self._coins))
        with self._begun(self._keys) as keys:
            return self.worker.unseal_at(payload_at, keys.view)

    @staticmethod
    @contextlib.contextmanager
    def _begun(keys: Coins) -> Iterator[Coins]:
        try:
            keys.begin()
            yield keys
        finally:
            keys.end()

    def close(self) -> None:
        """Close the views."""
        for view in (self._coins, self._keys):
            if view is not None:
                view.close()


def _view_of(coins: Coins | None) -> native_store.View | None:
    return None if coins is None else coins.view


def _tables(commands: Iterable[Command], opener: _Opener, gate: _Gate) -> tuple[list[Handler], ...]:
    """Handlers by kind of request (native_worker.KIND_*), then by command number."""
    unknown: Handler = _unknown
    tables = tuple([unknown] * COMMANDS_COUNT for _ in KINDS)
    for item in commands:
        handler = gate.guard(item) if item.guesses else item.handler
        for table in tables:
            table[item.number] = handler
        if item.needs_body:
            tables[KIND_BARE][item.number] = _refuse_bare
        tables[KIND_SEALED][item.number] = opener.handler(handler)
    return tables


class Worker(WorkerThread):
    """One worker thread. `index` counts through the ordinary lane, then the slow, then the writing
    one."""

    def __init__(
        self,
        engine: native.Engine,
        index: int,
        commands: Iterable[Command],
        node: Node,
        cpus: Sequence[int],
        coins: Coins | None = None,
        keys: Coins | None = None,
        *,
        writing: bool = False,
    ) -> None:
        """cpus: where it may run; empty: anywhere. coins: its view of the store, begun and ended
        with each batch. keys: a further view, for key coins alone; None: they are in `coins`.
        writing: that view is for changes, which one commit makes durable before the replies of a
        batch leave. The worker closes both views."""
        super().__init__(engine, index, cpus)
        self._gate = _Gate()
        self._opener = _Opener(coins, keys)
        self._tables = _tables(commands, self._opener, self._gate)
        self._node = node.for_worker(coins, lambda: self._gate.worker.reply_factor)
        self._coins = coins
        self._serve = self._serve_writing if writing else self._serve_reading
        self._fault_counts: dict[tuple[int, str], int] = {}  # not logged yet
        self._fault_at: dict[tuple[int, str], float] = {}  # of the last line, or the first fault

    def discard(self) -> None:
        """Close the views of a worker whose thread was never started."""
        self._opener.close()

    def _take_requests(self, worker: NativeWorker) -> None:
        self._gate.worker = self._opener.worker = worker
        try:
            while (count := worker.take(self._patience_ms())) is not None:
                if count:
                    self.serving = True
                    self._serve_safely(worker, count)
                    self.serving = False
                if self._fault_counts:
                    self._log_faults()
        finally:
            self._log_faults(last=True)

    def _patience_ms(self) -> int:
        return round(1000 * FAULT_INTERVAL_S) if self._fault_counts else TAKE_TIMEOUT_MS

    def _serve_safely(self, worker: NativeWorker, count: int) -> None:
        """Whatever fails, this thread goes on: the data plane relies on it.

        The next take() answers 252 to requests that were left without a reply.
        """
        try:
            self._serve(worker, count)
        except Exception:
            events.WORKER_FAILED.log(worker=self._index, exc_info=True)

    def _serve_reading(self, worker: NativeWorker, count: int) -> None:
        """Answer a batch, in order, from one state of the store."""
        coins = self._coins
        left = count
        try:
            if coins is not None:
                coins.begin()
            left = self._opener.open_batch(count)
            with _UNUSED if coins is None else coins.lent():
                replies = self._answer(worker, left)
        except StoreError as error:
            replies = self._store_failed(error, left)
        finally:
            if coins is not None:
                coins.end()
        self._reply(worker, replies)

    def _serve_writing(self, worker: NativeWorker, count: int) -> None:
        """Answer a batch, in order, in as many turns as keep other writers from waiting for
        long."""
        found, data = worker.batch(count)
        records = list(_ITER_RECORDS(found))
        done = 0
        while done < count:
            done += self._serve_turn(worker, records, done, data)

    def _serve_turn(
        self, worker: NativeWorker, records: list[_Record], first: int, data: bytes
    ) -> int:
        """Answer some of `records` from `first` on, once all that they changed is durable; returns
        how many."""
        coins = self._node.coins
        replies: list[Reply] = []
        try:
            coins.begin()
            self._answer_writing(worker, records[first:], data, replies)
            coins.commit()
        except StoreError as error:
            replies = self._store_failed(error, len(replies) or len(records) - first)
        finally:
            coins.end()
        self._reply(worker, replies, first)
        return len(replies)

    def _store_failed(self, error: StoreError, count: int) -> list[Reply]:
        """None of these requests has changed anything."""
        key = _STORE_FAULT, str(error)
        self._fault_counts[key] = self._fault_counts.get(key, 0) + count
        self._fault_at.setdefault(key, time.monotonic())
        return [_STORE_FAILED] * count

    def _fault_seen(self, key: tuple[int, str]) -> int:
        """How many such faults to log now, this one included; 0: a line was logged lately."""
        now = time.monotonic()
        self._fault_counts[key] = self._fault_counts.get(key, 0) + 1
        if now - self._fault_at.get(key, -FAULT_INTERVAL_S) < FAULT_INTERVAL_S:
            return 0
        self._fault_at[key] = now
        return self._fault_counts.pop(key)

    def _log_faults(self, *, last: bool = False) -> None:
        """Log faults that were only counted for FAULT_INTERVAL_S. last: all of them."""
        now = time.monotonic()
        for key, count in list(self._fault_counts.items()):
            if not last and now - self._fault_at[key] < FAULT_INTERVAL_S:
                continue
            del self._fault_counts[key], self._fault_at[key]
            number, what = key
            if number == _STORE_FAULT:
                events.STORE_FAILED.log(
                    fault=what, requests=count, noun="request" if count == 1 else "requests"
                )
            else:
                group, code = number >> 8, number & 0xFF
                events.HANDLER_FAILED_AGAIN.log(group=group, command=code, count=count, fault=what)

    def _answer(self, worker: NativeWorker, count: int) -> list[Reply]:
        """The busiest loop in Python: it contains only what every request needs."""
        records, data = worker.batch(count)
        tables, node = self._tables, self._node
        replies: list[Reply] = []
        add = replies.append
        for record in _ITER_RECORDS(records):
            at, size, number, kind, _, _, _, _ = record
            request = Request(data[at : at + size] if size else b"", record, data)
            try:
                add(tables[kind][number](request, node))
            except BaseException as error:  # a SystemExit too must not end the worker
                add(self._fault_reply(request, error))
        return replies

    def _answer_writing(
        self, worker: NativeWorker, records: list[_Record], data: bytes, replies: list[Reply]
    ) -> None:
        """The same with a view that handlers change, until the turn is over: native commands wait.
        Changes of a handler that fails, or whose reply the data plane will not send, are undone."""
        coins, factor = self._node.coins, worker.reply_factor
        until = time.monotonic() + TURN_S
        for record in records:
            at, size, number, kind, _, _, _, _ = record
            request = Request(data[at : at + size] if size else b"", record, data)
            try:
                with coins.lent():
                    given = self._tables[kind][number](request, self._node)
                reply = given if _is_plainly_good(given) else _checked(given, number)
                if reply is given and is_sent(reply.payload, request, factor):
                    coins.keep()
                else:  # a client that is answered 252 or 89 must not find its coins changed
                    coins.undo()
            except BaseException as error:  # a SystemExit too must not end the worker
                coins.undo()
                if isinstance(error, StoreError) and error.number:  # not of the handler's making
                    coins.store.note_unwritten(error, batches=0)
                reply = self._fault_reply(request, error)
            replies.append(reply)
            if time.monotonic() >= until:
                return

    def _fault_reply(self, request: Request, error: BaseException) -> Reply:
        if isinstance(error, _NotToldError):
            return _LIMITED
        self._log_fault(request, error)
        return _STORE_FAILED if isinstance(error, StoreError) else _INTERNAL

    def _reply(self, worker: NativeWorker, replies: list[Reply], first: int = 0) -> None:
        """Answer the batch's requests from number `first` on, those before which are answered."""
        if not replies:  # the data plane has answered the whole batch
            return
        try:
            packed = pack(replies)
        except Exception:  # one of the replies is not valid: find it
            records = _ITER_RECORDS(worker.records(len(replies), first))
            packed = pack(
                [_checked(reply, record[2]) for reply, record in zip(replies, records, strict=True)]
            )
        if max(packed[1], default=0) > PAYLOAD_FITS:
            _log_too_long(
                worker.records(len(replies), first), packed[1]
            )  # the data plane answers 252
        worker.reply(*packed)

    def _log_fault(self, request: Request, error: BaseException) -> None:
        """Log a handler's failure with its traceback; repeats within a second are counted."""
        number = request.group << 8 | request.command
        count = self._fault_seen((number, type(error).__name__))
        if not count:
            return
        events.HANDLER_FAILED.log(
            handler=name_of(self._tables[0][number]),
            request=request,
            status=(_STORE_FAILED if isinstance(error, StoreError) else _INTERNAL).status,
            remark=f" ({count} times since the last such line)" if count > 1 else "",
            group=request.group,
            command=request.command,
            exc_info=error,
        )


def _is_plainly_good(reply: Reply) -> bool:
    """Whether it needs no _checked(), which costs more than the comparison."""
    return (
        type(reply) is Reply
        and type(reply.payload) is bytes
        and type(reply.status) in (int, Status)
        and 0 <= reply.status <= 255
    )


def _checked(reply: object, number: int) -> Reply:
    """The reply to command `number`, if it is one; anything may come from a handler."""
    fault = fault_of(reply)
    if fault is None:
        assert isinstance(reply, Reply)  # noqa: S101  for the type checker
        return reply
    _log_refused(number, fault)
    return _INTERNAL


def _log_too_long(records: Any, sizes: Iterable[int]) -> None:
    for (_, _, number, _, encryption, _, tcp, _), size in zip(
        _ITER_RECORDS(records), sizes, strict=True
    ):
        fault = size_fault(size, udp=not tcp, encryption=encryption)
        if fault is not None:
            _log_refused(number, fault)


def _log_refused(number: int, fault: str) -> None:
    events.REPLY_REFUSED.log(group=number >> 8, command=number & 0xFF, fault=fault)


def join_all(
    workers: Iterable[WorkerThread],
    handler_timeout_s: float = HANDLER_TIMEOUT_S,
    leave_timeout_s: float = LEAVE_TIMEOUT_S,
) -> list[str]:
    """Wait until the threads of `workers` have ended; the names of those that have not.

    Once the data plane has ended. Those that were never started are discarded. A thread that has
    ended is joined, too: until then Python 3.13 keeps its stack.
    """
    began = time.monotonic()
    stuck = []
    for worker in workers:
        if worker.thread.ident is None:
            worker.discard()
            continue
        while True:
            timeout_s = handler_timeout_s if worker.serving else leave_timeout_s
            left_s = began + timeout_s - time.monotonic()
            worker.thread.join(max(0.0, min(left_s, _JOIN_INTERVAL_S)))
            if not worker.thread.is_alive():
                break
            if left_s <= 0:
                stuck.append(worker.thread.name)
                break
    return stuck
