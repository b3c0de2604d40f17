"""An event of the log: its level, its text and its meaning, and how a line of it is logged."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

_logger: Final = logging.getLogger("raida_uring")


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log, but for its values.

    level: one of logging's; NOTSET where each call gives its own. template: the text, with a
    `%(name)s` for each value. fields: the values that JSON and the journal carry as fields of
    their own, in this order; the template need not show them. example: the line for the table, if
    the template with `…` for each value does not explain enough. unlimited: the line is not
    subject to the limit on repeated lines. name: in the table, empty for that of the row.
    """

    level: int
    template: str
    meaning: str
    fields: tuple[str, ...] = ()
    example: str = ""
    unlimited: bool = False
    name: str = ""

    def is_enabled(self) -> bool:
        """Whether a line would be written at the level that is set. Any thread."""
        return _logger.isEnabledFor(self.level)

    def log(
        self,
        *,
        level: int = logging.NOTSET,
        exc_info: BaseException | Literal[True] | None = None,
        more: Mapping[str, object] | None = None,
        **values: object,
    ) -> None:
        """Log the line. Any thread but the I/O thread.

        values: those of the template and of the fields. more: further fields, whose names only the
        caller knows. exc_info: the exception whose traceback to log, True: the one being handled.
        """
        level = level or self.level
        if not _logger.isEnabledFor(level):
            return
        raised = sys.exception() if exc_info is True else exc_info
        # Made here, since Logger.log() takes longer to find the caller, a cost for each request.
        caller = sys._getframe(1)
        record = logging.LogRecord(
            _logger.name,
            level,
            caller.f_code.co_filename,
            caller.f_lineno,
            self.template,
            (values,) if values else (),
            None if raised is None else (type(raised), raised, raised.__traceback__),
        )
        fields = {name: values[name] for name in self.fields} | dict(more or {})
        vars(record).update(event=self.name, fields=fields, unlimited=self.unlimited)
        _logger.handle(record)
