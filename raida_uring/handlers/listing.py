"""Commands as text: counted by origin, and as a table."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from raida_uring.handlers.declaration import Command
from raida_uring.protocol import command_name

# Groups in which the protocol has no command, and codes that this node will never take there.
OTHERS_GROUPS: Final = (5, 6, 7)
OTHERS_CODES: Final = range(128, 256)


def summary(commands: Sequence[Command]) -> str:
    """How many there are, and from where."""
    counts = Counter(item.source for item in commands)
    parts = ", ".join(f"{count} {source}" for source, count in counts.items())
    return f"{len(commands)} commands: {parts}"


def table(commands: Sequence[Command]) -> str:
    """All commands for people, a line each, and which numbers are left for others."""
    lines = [f"{'COMMAND':<9}{'NAME':<30}{'MODE':<7}{'BODY':<8}HANDLER"]
    for row in as_dicts(commands):
        number = f"{row['group']}/{row['code']}"
        name = "-" if row["name"] == number else row["name"]
        body = "needed" if row["needs_body"] else "-"
        lines.append(
            f"{number:<9}{name:<30}{row['mode']:<7}{body:<8}{row['handler']} ({row['source']})"
        )
    taken = {item.number for item in commands}
    free = ", ".join(
        f"{group}/{part}"
        for group in OTHERS_GROUPS
        for part in _ranges(code for code in OTHERS_CODES if group << 8 | code not in taken)
    )
    return "\n".join([*lines, f"free for commands of your own: {free}"])


def as_dicts(commands: Sequence[Command]) -> list[dict[str, object]]:
    """All commands for programs, by number."""
    return [
        {
            "group": item.group,
            "code": item.code,
            "name": command_name(item.group, item.code),
            "mode": item.mode,
            "needs_body": item.needs_body,
            "handler": item.name,
            "source": item.source,
        }
        for item in sorted(commands, key=lambda item: item.number)
    ]


def _ranges(numbers: Iterable[int]) -> Iterator[str]:
    """`1-3`, `7` for 1, 2, 3, 7."""
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0])
