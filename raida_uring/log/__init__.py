"""Logging to standard error: plain for a person, JSON for a collector, fields for the journal.

The package logs through `logging.getLogger("raida_uring")`, a handler's module through a child of
it. Every line of the package is an event of events.py. A thread that logs never waits for a reader
of the log (writer.py). Not for the I/O thread, which counts instead.
"""

from raida_uring.log.forms import FORMS
from raida_uring.log.output import (
    LEVELS,
    configure,
    current_level,
    dropped,
    flush,
    guard_process,
    log_death,
    set_level,
    sweep,
)

__all__ = [
    "FORMS",
    "LEVELS",
    "configure",
    "current_level",
    "dropped",
    "flush",
    "guard_process",
    "log_death",
    "set_level",
    "sweep",
]
