"""Write the generated tables of docs/*.md in place: `make docs`.

A table stands between the lines `<!-- generated table: NAME -->` and `<!-- end of table -->`, in
whichever document; NAME is one of TABLES. Text outside the markers is left as it is. A test
compares the committed documents with what this makes.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from raida_uring.observe.counters import COUNTERS, LAWS
from raida_uring.observe.prometheus import FAMILIES

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
NONE: Final = "–"
_MARKED: Final = re.compile(
    r"(<!-- generated table: (?P<name>[a-z ]+) -->\n)(?:.*\n)*?(?=<!-- end of table -->\n)"
)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def counters() -> Iterator[str]:
    """Every counter of the data plane with the law it is a term of."""
    titles = {"udp": "UDP", "tcp": "TCP", "connections": "connections"}
    law_of = {
        name: titles[law.name] for law in LAWS for name in (law.begun, *law.ended, law.open_now)
    }
    yield row("counter", "law", "meaning")
    yield "|---|---|---|"
    for counter in COUNTERS.values():
        yield row(f"`{counter.name}`", law_of.get(counter.name, NONE), counter.meaning)


def metrics() -> Iterator[str]:
    """Every metric of /metrics but those of the process."""
    yield row("metric", "type", "labels", "meaning")
    yield "|---|---|---|---|"
    for name, family in FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        yield row(f"`{name}`", family.kind, labels or NONE, family.meaning)


TABLES: Final[dict[str, Callable[[], Iterator[str]]]] = {"counters": counters, "metrics": metrics}


def updated(text: str) -> str:
    """A document with its tables made anew. Raises KeyError for a name that TABLES lacks."""

    def made(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{line}\n" for line in TABLES[found["name"]]())

    return _MARKED.sub(made, text)


def documents() -> list[Path]:
    return sorted(DOCS.glob("*.md"))


def places(name: str) -> list[str]:
    """The documents that hold the table `name`."""
    marker = f"<!-- generated table: {name} -->\n"
    return [path.name for path in documents() if marker in path.read_text(encoding="utf-8")]


def stale() -> list[str]:
    """The documents that differ from what this makes."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in documents()}
    return [name for name, text in texts.items() if text != updated(text)]


def main() -> None:
    for name in stale():
        path = DOCS / name
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"docs/{name} is written anew")


if __name__ == "__main__":
    main()
