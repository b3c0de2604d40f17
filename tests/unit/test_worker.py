"""The end of workers: a handler that never returns delays the stop for a moment only, and a worker
that is late to leave does not count as one."""

import threading

from raida_uring.workers.worker import Worker, join_all


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
