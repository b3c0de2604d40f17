"""What a node tells its service manager: that it serves, reloads, stops, lives.

Only the process that is the service speaks: from its start, or once its predecessor has given the
service up, until it hands the service over. Thread: main; say() any.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from raida_uring.errors import RaidaError
from raida_uring.node.servicemanager import (
    WATCHDOG,
    Adoption,
    notify,
    status,
    store_sockets,
    watchdog_interval_s,
)

EXTEND_S: Final = 30.0  # the time that a waiting start asks for, again and again
STOP_MARGIN_S: Final = 30.0  # beyond the drain, for a stop: workers, the store


class Service:
    """The service manager's view of this process. See the module."""

    def __init__(self, *, following: bool) -> None:
        """following: the process succeeds a node, whose child it is."""
        self._speaks = False
        # The predecessor is to serve again: until it is the service, this process feeds the
        # watchdog, which no STOPPING=1 has ended.
        self._gives_back = False
        self.status = ""  # what the manager shows while nothing special happens
        self._extend_at = 0.0
        self._adoption = Adoption(os.getppid()) if following and _has_manager() else None
        self._watchdog_s = watchdog_interval_s()
        self._watchdog_at = 0.0
        self._laps = 0

    def say(self, state: str) -> None:
        """Tell the service manager, if this process is the service. Any thread."""
        if self._speaks:
            notify(state)

    def waits(self, reason: str) -> None:
        """The start waits: call it again and again, so that the manager does not give up."""
        now = time.monotonic()
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_S / 3
            notify(f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}\n{status(f'waiting: {reason}')}")

    def announce(self, descriptors: Sequence[int]) -> None:
        """This process is the service from now on. Also when it was asked to stop meanwhile: the
        manager takes a process that ends before it was ready for a failed one.

        descriptors: of the listening sockets.
        """
        self._speaks = True
        store_sockets(descriptors)
        self.reloaded("")

    def reloading(self) -> None:
        """Any thread."""
        self.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, remark: str) -> None:
        """It serves as usual. remark: added to the state shown. Any thread."""
        self.say(f"READY=1\n{status(self.status + remark)}")

    def stops(self, drain_ms: int) -> None:
        """It drains and then ends. Last: a reload under way says nothing more once it drains."""
        self.say(f"STOPPING=1\n{status('answering what was received, then stopping')}")
        self.ask_for_time(drain_ms)

    def ask_for_time(self, drain_ms: int) -> None:
        """A stop may take longer than TimeoutStopSec=."""
        self.say(f"EXTEND_TIMEOUT_USEC={round((drain_ms / 1000 + STOP_MARGIN_S) * 1e6)}")

    def hand_over(self, process: int) -> None:
        """`process` is the service from now on."""
        self.end()
        self.say(f"MAINPID={process}")
        self._speaks = False

    def give_back(self) -> None:
        """Say nothing more: the predecessor is the service again, if it can serve."""
        self._speaks, self._gives_back = False, True

    def take_back(self) -> None:
        """This process is the service again: the successor has ended."""
        self._speaks = True
        self.claim()

    @staticmethod
    def claim() -> None:
        """Name this process, so that its exit status counts."""
        notify(f"MAINPID={os.getpid()}")

    def tend(self, beat: Callable[[], int], *, leaving: bool) -> None:
        """Call it again and again. beat: has the I/O thread make a lap, and returns how many it has
        made; raises RaidaError when it does not serve. leaving: nobody takes over."""
        self._feed_watchdog(beat, leaving=leaving)
        if self._adoption is not None and self._speaks and self._adoption.tend():
            self.end()

    def _feed_watchdog(self, beat: Callable[[], int], *, leaving: bool) -> None:
        """Only while the I/O thread makes laps. Not once the node leaves: STOPPING=1 has ended the
        watchdog, and WATCHDOG=1 would start it again."""
        if self._watchdog_s is None or time.monotonic() < self._watchdog_at:
            return
        if not self._gives_back and (not self._speaks or leaving):
            return
        try:
            laps = beat()
        except RaidaError:
            return  # not serving: nothing to report
        if laps != self._laps:
            self._laps = laps
            self._watchdog_at = time.monotonic() + self._watchdog_s
            notify(WATCHDOG)

    @property
    def busy(self) -> bool:
        """Whether tend() is to be called soon."""
        return self._adoption is not None

    def watchdog_in_s(self) -> float | None:
        """When the watchdog is to be fed; None: never."""
        return None if self._watchdog_s is None else self._watchdog_at - time.monotonic()

    def end(self) -> None:
        """End what runs beside this process."""
        if self._adoption is not None:
            self._adoption.end()
            self._adoption = None


def _has_manager() -> bool:
    return "NOTIFY_SOCKET" in os.environ
