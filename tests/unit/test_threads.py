"""Threads that a node cannot do without."""

import pytest

from raida_uring import threads
from raida_uring.threads import Vital


class Breathless(Vital):
    """Like a thread for whose first steps Python finds no memory."""

    def _bootstrap(self) -> None:
        pass


def test_starting_a_thread_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose start hung like that would obey no signal."""
    monkeypatch.setattr(threads, "BEGIN_LOOKS", 2)
    monkeypatch.setattr(threads, "BEGIN_LOOK_S", 0.01)
    with pytest.raises(MemoryError):
        Breathless(target=int, daemon=True).start()


def test_a_thread_that_begins_is_started() -> None:
    thread = Vital(target=int, daemon=True)
    thread.start()
    thread.join()
    assert not thread.is_alive()
