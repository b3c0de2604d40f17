"""Write the table of log events in docs/reference.md from the rows of raida_uring/log/events.py.

A test compares the committed file with what this makes.
"""

import logging
import re
from collections import defaultdict
from pathlib import Path

from raida_uring.log import events
from raida_uring.log.event import Event

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
BEGIN = "<!-- log events: from raida_uring/log/events.py, by `make docs` -->\n"
END = "<!-- log events: end -->\n"
ROWS = {name: row for name, row in vars(events).items() if isinstance(row, Event)}


def values_of(template: str) -> set[str]:
    """The names of the values that `template` shows."""
    seen: defaultdict[str, int] = defaultdict(int)
    template % seen  # each name that is looked up is in it afterwards
    return set(seen)


def line_of(row: Event) -> str:
    """The line as the table shows it: the example, or the template with `…` for each value."""
    return row.example or re.sub(r"%\(\w+\)[.\d]*[a-z]", "…", row.template).replace("%%", "%")


def table() -> str:
    text = "| event | level | line | meaning |\n|---|---|---|---|\n"
    for row in ROWS.values():
        level = logging.getLevelName(row.level).lower() if row.level else "as held back"
        text += f"| `{row.name}` | {level} | `{line_of(row)}` | {row.meaning} |\n"
    return text


def document(text: str) -> str:
    """`text`, docs/reference.md, with the table made anew between its markers."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
