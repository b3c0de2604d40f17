"""Write the generated tables of docs/*.md in place: `make docs`.

A table stands between the lines `<!-- generated table: NAME -->` and `<!-- end of table -->`, in
whichever document; NAME is one of TABLES. Text outside the markers is left as it is. A test
compares the committed documents with what this makes.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from raida_uring.observe.counters import COUNTER_FAMILIES, COUNTERS, LAWS, metric_of
from raida_uring.observe.prometheus import FAMILIES

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
NONE: Final = "–"
_MARKED: Final = re.compile(
    r"(<!-- generated table: (?P<name>[a-z ]+) -->\n)(?:.*\n)*?(?=<!-- end of table -->\n)"
)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def counters() -> Iterator[str]:
    """Every counter of the data plane with the law it is a term of and the metric that shows it."""
    titles = {"udp": "UDP", "tcp": "TCP", "connections": "connections"}
    law_of = {
        name: titles[law.name] for law in LAWS for name in (law.begun, *law.ended, law.open_now)
    }
    yield row("counter", "law", "metric", "meaning")
    yield "|---|---|---|---|"
    for name, counter in COUNTERS.items():
        metric, reason = metric_of(name)
        labels = f'{{reason="{reason}"}}' if reason is not None else ""
        yield row(f"`{name}`", law_of.get(name, NONE), f"`{metric}{labels}`", counter.meaning)


def metrics() -> Iterator[str]:
    """Every metric of /metrics but those of the process and those that show a counter."""
    yield row("metric with its labels", "type", "meaning")
    yield "|---|---|---|"
    for name, family in FAMILIES.items():
        if name not in COUNTER_FAMILIES:
            labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
            yield row(f"`{name}{labels}`", family.kind, family.meaning)


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
