"""Write what follows from the code: the tables of docs/*.md, and the annotated sample, which is
systemd/raida-uring.toml. `make docs` runs this.

A table stands between the lines `<!-- generated table: NAME -->` and `<!-- end of table -->`, in
whichever document; NAME is one of TABLES. Text outside the markers is left as it is. A test
compares the committed files with what this makes.
"""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from raida_uring import config
from raida_uring.log import events
from raida_uring.log.event import Event
from raida_uring.observe.counters import COUNTER_FAMILIES, COUNTERS, LAWS, metric_of
from raida_uring.observe.prometheus import FAMILIES

ROOT: Final = Path(__file__).resolve().parents[1]
SAMPLE: Final = ROOT / "systemd" / "raida-uring.toml"
EVENTS: Final = {name: event for name, event in vars(events).items() if isinstance(event, Event)}
NONE: Final = "–"
_MARKED: Final = re.compile(
    r"(<!-- generated table: (?P<name>[a-z ]+) -->\n)(?:.*\n)*?(?=<!-- end of table -->\n)"
)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def heading(*names: str) -> str:
    return f"{row(*names)}\n|{'---|' * len(names)}"


def settings() -> Iterator[str]:
    """Every key of the configuration file."""
    yield heading("table", "key", "unit", "must be", "default", "on reload", "meaning")
    for table, keys in config.SETTINGS.items():
        for key, setting in keys.items():
            default = setting.shown_default
            if not setting.mandatory and setting.default is not None:
                default = f"`{default}`"
            allowed, reload = setting.kind.allowed, setting.reload
            unit = setting.unit or NONE
            yield row(f"`[{table}]`", f"`{key}`", unit, allowed, default, reload, setting.meaning)


def log_events() -> Iterator[str]:
    """Every line of the log: the example, or the template with `…` for each value."""
    yield heading("event", "level", "line", "meaning")
    for event in EVENTS.values():
        level = logging.getLevelName(event.level).lower() if event.level else "as held back"
        shown = re.sub(r"%\(\w+\)[.\d]*[a-z]", "…", event.template).replace("%%", "%")
        yield row(f"`{event.name}`", level, f"`{event.example or shown}`", event.meaning)


def counters() -> Iterator[str]:
    """Every counter of the data plane with the law it is a term of and the metric that shows it."""
    titles = {"udp": "UDP", "tcp": "TCP", "connections": "connections"}
    law_of = {
        name: titles[law.name] for law in LAWS for name in (law.begun, *law.ended, law.open_now)
    }
    yield heading("counter", "law", "metric", "meaning")
    for name, counter in COUNTERS.items():
        metric, reason = metric_of(name)
        labels = f'{{reason="{reason}"}}' if reason is not None else ""
        yield row(f"`{name}`", law_of.get(name, NONE), f"`{metric}{labels}`", counter.meaning)


def metrics() -> Iterator[str]:
    """Every metric of /metrics but those of the process and those that show a counter."""
    yield heading("metric with its labels", "type", "meaning")
    for name, family in FAMILIES.items():
        if name not in COUNTER_FAMILIES:
            labels = f"{{{','.join(family.labels)}}}" if family.labels else ""
            yield row(f"`{name}{labels}`", family.kind, family.meaning)


TABLES: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "settings": settings,
    "log events": log_events,
    "counters": counters,
    "metrics": metrics,
}


def updated(text: str) -> str:
    """A document with its tables made anew. Raises KeyError for a name that TABLES lacks."""

    def made(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{line}\n" for line in TABLES[found["name"]]())

    return _MARKED.sub(made, text)


def documents() -> dict[Path, str]:
    """The text of every document, as it is."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}


def stale() -> dict[Path, str]:
    """The files that differ from what this makes, each with the text that it ought to have."""
    wanted = {path: updated(text) for path, text in documents().items()}
    wanted[SAMPLE] = config.annotated()
    return {path: text for path, text in wanted.items() if path.read_text(encoding="utf-8") != text}


if __name__ == "__main__":
    for path, text in stale().items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} is written anew")
