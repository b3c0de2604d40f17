"""The life of a node as a table: its stages, the events, and what an event does at each stage.

Pure: actions are names, which daemon.py carries out. docs/architecture.md shows the table.
"""

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raida_uring import signals


class Stage(enum.Enum):
    """How far a node has come on the way from its predecessor to its successor."""

    FOLLOWING = "serves beside its predecessor, which still has the admin socket and HTTP"
    INHERITING = "serves; the predecessor answers what it has received and passes connections on"
    ALONE = "serves"
    STARTING = "serves while its successor comes up"
    DISMISSING = "serves while a successor that is not wanted ends"
    HANDING_OVER = "answers what it has received; the successor serves"
    LEAVING = "answers what it has received; nobody takes over"
    ENDED = "has answered everything"


# Stages that end by something nobody reports, so the main thread has to look for it.
POLLED: Final = frozenset({Stage.STARTING, Stage.DISMISSING, Stage.HANDING_OVER, Stage.LEAVING})


class Event(enum.Enum):
    """What happens to a node: up to FAULT at any stage, the rest only at some."""

    STOP = "asked to stop: SIGTERM, SIGINT"
    STOP_NOW = "asked to stop a second time: stop at once"
    DRAIN = "asked by the admin socket to stop, with a time-out"
    RELOAD = "asked to reload: SIGHUP"
    UPGRADE = "asked to upgrade: SIGUSR2, the admin socket"
    OVER = "the I/O thread has ended; in LEAVING, a dismissed successor has ended too"
    FAULT = "the store must be opened again, or a thread has died"
    RELEASED = "the predecessor has given up the admin socket and the port of HTTP"
    GONE = "the predecessor has ended"
    READY = "the successor serves"
    FAILED = "the successor does not come up, or ended before anything was handed over"
    DISMISSED = "the successor that is not wanted has ended"
    LOST = "the successor has ended before this node has"
    BACK = "this node serves again"


SIGNALS: Final[Mapping[int, Event]] = {
    **dict.fromkeys(signals.STOP, Event.STOP),
    signals.RELOAD: Event.RELOAD,
    signals.UPGRADE: Event.UPGRADE,
}


class Action(enum.Enum):
    """What a node does when an event happens."""

    # Towards the predecessor.
    WITHDRAW = "tell the predecessor that this node was asked to stop"
    WITHDRAW_FAILED = "tell the predecessor that this node has failed"
    GIVE_BACK = "leave the service to the predecessor, which serves again if it can"
    STOP_LATER = "note that the stop waits for the predecessor's end"
    OPEN = "open the admin socket and HTTP, and be the service"
    END_TAKEOVER = "have sockets and store alone"
    # Towards the successor.
    START_SUCCESSOR = "start it"
    GIVE_UP = "dismiss it: this node goes on"
    CALL_OFF = "dismiss it: this node ends too"
    HAND_OVER = "leave it sockets, service, admin socket and HTTP, and drain"
    RELOAD_SUCCESSOR = "send it SIGHUP"
    TAKE_BACK = "serve again, if the data plane still can"
    SERVE_AGAIN = "be the service again"
    NOTE_UPGRADE = "log why no further upgrade begins"
    # Alone.
    RELOAD = "read the configuration again"
    NOTE_FAULT = "keep the fault that the process ends with"
    LEAVE = "drain"
    NOTE_LEAVING = "log that it leaves already"
    STOP_SOONER = "drain for no longer than a signal's stop"
    STOP_AT_ONCE = "drop the requests in flight"
    KILL_DISMISSED = "kill a successor that was dismissed"


@dataclass(frozen=True, slots=True)
class Step:
    """actions: done in this order. to: the next stage; None: the same. deferred: the event is kept
    and happens again at the next stage."""

    actions: tuple[Action, ...]
    to: Stage | None = None
    deferred: bool = False


def _go(to: Stage, *actions: Action) -> Step:
    return Step(actions, to)


def _stay(*actions: Action) -> Step:
    return Step(actions)


def _later(*actions: Action) -> Step:
    return Step(actions, deferred=True)


def _leave(*first: Action) -> Step:
    return Step((*first, Action.LEAVE), Stage.LEAVING)


def _leave_at_once(*first: Action) -> Step:
    return Step((*first, Action.LEAVE, Action.STOP_AT_ONCE), Stage.LEAVING)


# An event that a stage does not name is ignored at it.
LIFE: Final[Mapping[Stage, Mapping[Event, Step]]] = {
    Stage.FOLLOWING: {
        Event.STOP: _leave(Action.WITHDRAW),
        Event.STOP_NOW: _leave_at_once(Action.WITHDRAW),
        Event.DRAIN: _leave(Action.WITHDRAW),
        Event.RELOAD: _stay(Action.RELOAD),
        Event.UPGRADE: _later(),
        Event.OVER: _leave(Action.WITHDRAW_FAILED),
        Event.FAULT: _leave(Action.NOTE_FAULT, Action.WITHDRAW_FAILED),
        Event.RELEASED: _go(Stage.INHERITING, Action.OPEN),
        Event.GONE: _go(Stage.ALONE, Action.END_TAKEOVER, Action.OPEN),
    },
    Stage.INHERITING: {
        Event.STOP: _later(Action.STOP_LATER),
        Event.STOP_NOW: _leave_at_once(),
        Event.DRAIN: _leave(),
        Event.RELOAD: _stay(Action.RELOAD),
        Event.UPGRADE: _later(),
        Event.OVER: _leave(Action.GIVE_BACK),
        Event.FAULT: _leave(Action.NOTE_FAULT, Action.GIVE_BACK),
        Event.GONE: _go(Stage.ALONE, Action.END_TAKEOVER),
    },
    Stage.ALONE: {
        Event.STOP: _leave(),
        Event.STOP_NOW: _leave_at_once(),
        Event.DRAIN: _leave(),
        Event.RELOAD: _stay(Action.RELOAD),
        Event.UPGRADE: _go(Stage.STARTING, Action.START_SUCCESSOR),
        Event.OVER: _leave(),
        Event.FAULT: _leave(Action.NOTE_FAULT),
    },
    Stage.STARTING: {
        Event.STOP: _leave(Action.CALL_OFF),
        Event.STOP_NOW: _leave_at_once(Action.CALL_OFF),
        Event.DRAIN: _leave(Action.CALL_OFF),
        Event.RELOAD: _later(Action.RELOAD),  # the successor may have read the file before
        # The caller gets the outcome of the upgrade under way.
        Event.UPGRADE: _stay(Action.NOTE_UPGRADE),
        Event.OVER: _leave(Action.CALL_OFF),
        Event.FAULT: _leave(Action.NOTE_FAULT, Action.CALL_OFF),
        Event.READY: _go(Stage.HANDING_OVER, Action.HAND_OVER),
        Event.FAILED: _go(Stage.DISMISSING, Action.GIVE_UP),
    },
    Stage.DISMISSING: {
        Event.STOP: _leave(),
        Event.STOP_NOW: _leave_at_once(),
        Event.DRAIN: _leave(),
        Event.RELOAD: _stay(Action.RELOAD),
        Event.UPGRADE: _later(),
        Event.OVER: _leave(),
        Event.FAULT: _leave(Action.NOTE_FAULT),
        Event.DISMISSED: _go(Stage.ALONE),
    },
    Stage.HANDING_OVER: {
        Event.STOP: _later(Action.NOTE_LEAVING),
        Event.STOP_NOW: _stay(Action.STOP_AT_ONCE),
        Event.DRAIN: _leave(Action.CALL_OFF),
        Event.RELOAD: _later(Action.RELOAD_SUCCESSOR),
        Event.UPGRADE: _stay(Action.NOTE_UPGRADE),  # whoever asks has had the answer
        Event.OVER: _go(Stage.ENDED),
        Event.FAILED: _go(Stage.DISMISSING, Action.GIVE_UP),
        Event.LOST: _stay(Action.TAKE_BACK),
        Event.BACK: _go(Stage.ALONE, Action.SERVE_AGAIN),
    },
    Stage.LEAVING: {
        Event.STOP: _stay(Action.NOTE_LEAVING, Action.STOP_SOONER),
        Event.STOP_NOW: _stay(Action.STOP_AT_ONCE, Action.KILL_DISMISSED),
        Event.DRAIN: _stay(),  # begin_drain() has applied its time-out, if that is shorter
        Event.RELOAD: _stay(),
        Event.UPGRADE: _stay(Action.NOTE_UPGRADE),  # whoever asks has had the answer
        Event.OVER: _go(Stage.ENDED),
    },
    Stage.ENDED: {},
}


class Life:
    """The way of one node through the table. Thread: main; `stage` is read by any."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._posted: deque[Event] = deque()
        self._deferred: list[Event] = []

    def post(self, happened: Event) -> None:
        """Have an event happen before any that comes from outside."""
        self._posted.append(happened)

    def posted(self) -> Event | None:
        """The next event that was posted."""
        return self._posted.popleft() if self._posted else None

    def happen(self, happened: Event) -> tuple[Action, ...]:
        """What is to be done.

        The new stage is set before, so that no other thread finds the old one while the actions
        run; deferred events come before those that the actions post.
        """
        step = LIFE[self.stage].get(happened)
        if step is None:
            return ()
        if step.deferred:
            self._deferred.append(happened)
        if step.to is not None:
            self.stage = step.to
            self._posted.extend(self._deferred)
            self._deferred.clear()
        return step.actions
