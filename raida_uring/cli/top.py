"""The live view of a node, from two looks at its status.

`summary` and `render` are pure; `watch` draws on the terminal (curses) until q is pressed.
"""

import contextlib
import curses
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

import raida_uring
from raida_uring.addresses import format_endpoint
from raida_uring.errors import RaidaError
from raida_uring.observe.latency import PERCENTILES, percentiles_us
from raida_uring.protocol.status import UNLISTED, status_name

_LATENCIES: Final = {"udp": "UDP handlers", "tcp": "TCP handlers", "queue": "queue", "lap": "lap"}
_POOLS: Final = {
    "udp_contexts": "UDP",
    "tcp_buffers": "TCP",
    "small_blocks": "2K",
    "large_blocks": "64K",
}
_DROPS_SHOWN: Final = 8
_LANE_COLUMNS: Final = 13  # five lanes beside a title of 14 columns, on a terminal of 80
NOT_READY: Final = "NOT READY: "  # such lines of the view are drawn in red

_RED: Final = 1  # a pair of colours

Status = Mapping[str, Any]
_AT_START: Final[Status] = {"uptime_s": 0.0, "resources": {"cpu_s": 0.0}}
_F = TypeVar("_F", bound=Callable[..., Any])


def _understood(told: _F) -> _F:
    """Turn a status of another version's form into an error: the node may not be upgraded yet."""

    @functools.wraps(told)
    def guarded(now: Status, *rest: Any) -> Any:
        try:
            return told(now, *rest)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise RaidaError(
                f"this is version {raida_uring.__version__}, the node's is {now.get('version')}: "
                f"it tells its status in another form (no {error}); `status --json` prints it as "
                "it is"
            ) from error

    return cast("_F", guarded)


@_understood
def summary(now: Status, before: Status | None) -> dict[str, Any]:
    """What the view shows: rates and percentiles of the time between two looks, the rest of `now`.

    before: None for the time since start. Rates are per second. Raises RaidaError when `now` is not
    as this version tells it.
    """
    since_start = before is None or before["process"] != now["process"]  # restarted in between
    then = _AT_START if before is None or since_start else before
    interval_s = now["uptime_s"] - then["uptime_s"]
    counted = then.get("counters", {})
    rates = {
        name: (value - counted.get(name, 0)) / max(interval_s, 1e-3)
        for name, value in now["counters"].items()
    }
    earlier = {one["command"]: one for one in then.get("commands", ())}
    histograms = then.get("histograms", {})
    used_s = now["resources"]["cpu_s"] - then["resources"]["cpu_s"]
    shown = ("raida_id", "version", "process", "phase", "tier", "endpoints", "uptime_s")
    return {
        **{name: now[name] for name in shown},
        "unready": now.get("unready", []),
        "interval_s": interval_s,
        "since_start": since_start,
        "rates": {
            "udp_received": rates["udp_received"],
            "udp_answered": rates["udp_answered"],
            "tcp_requests": rates["tcp_requests"],
            "tcp_answered": rates["tcp_answered"],
            "handlers": rates["dispatched"],
            "votes": rates["udp_votes"],
            "echoes": rates["echoes"],
            "connections": rates["connections_accepted"],
            "laps": rates["laps"],
        },
        "totals": {name: now["counters"][name] for name in ("udp_received", "tcp_requests")},
        "latency_us": {
            kind: _latency_us(now["histograms"][kind], histograms.get(kind, []))
            for kind in _LATENCIES
        },
        "drops": {
            name: {"per_s": rates[name], "total": value} for name, value in now["drops"].items()
        },
        "commands": [
            _command(one, earlier.get(one["command"]), interval_s) for one in now["commands"]
        ],
        "in_flight": now["in_flight"],
        "lanes": now["lanes"],
        "memory": now["memory"],
        "lent": now.get("lent") or {},  # missing in 0.1.0
        "connections": now["connections"],
        "resources": {
            **now["resources"],
            "cpu_percent": 100 * used_s / max(interval_s, 1e-3),
            "io_cpu_percent": rates["loop_cpu_ns"] / 1e7,
        },
        "store": now["store"],
        "http": now.get("http"),  # missing in older nodes
        "log_dropped": now.get("log", {}).get("dropped", 0),
    }


def _command(now: Status, before: Status | None, interval_s: float) -> dict[str, Any]:
    """before: the same command at the earlier look; the mean is of the replies since then."""
    count, spent_s = now["answered"], now["spent_s"]
    if before is not None and count > before["answered"]:
        count, spent_s = count - before["answered"], spent_s - before["spent_s"]
    new = now["answered"] - (0 if before is None else before["answered"])
    return {
        **now,
        "per_s": new / max(interval_s, 1e-3),
        "mean_us": 1e6 * spent_s / count if count else None,
    }


def _latency_us(now: list[list[int]], before: list[list[int]]) -> dict[str, float | None]:
    earlier: dict[int, int] = {floor: count for floor, count in before}  # noqa: C416  typed
    return percentiles_us((floor, count - earlier.get(floor, 0)) for floor, count in now)


# --- Text -------------------------------------------------------------------------------------


@_understood
def render(now: Status, before: Status | None, width: int, height: int) -> list[str]:
    """The view as lines of at most `width` columns; the most important first.

    Where `height` lines do not hold it, blank ones go first, the lowest of them before the others;
    then the commands that are asked least: the last line counts them. Raises RaidaError as
    summary().
    """
    view = summary(now, before)
    commands = _commands(view)
    lines = [
        *_heading(view),
        "",
        *_traffic(view),
        "",
        *_latency(view),
        "",
        *_work(view),
        "",
        *_drops(view),
        "",
        *commands,
    ]
    for index in [index for index, line in enumerate(lines) if not line][::-1]:
        if len(lines) > height:
            del lines[index]
    if len(lines) > height > 0:
        hidden = len(lines) - height + 1
        what = "commands" if hidden < len(commands) else "lines"
        lines[height - 1 :] = [f"+ {hidden} more {what}"]
    return [line[:width] for line in lines[: max(0, height)]]


def _heading(view: Status) -> list[str]:
    places = ", ".join(format_endpoint(host, port) for host, port in view["endpoints"])
    resources = view["resources"]
    return [
        f"RAIDA {view['raida_id']}  {view['phase']}  {places}  up {_duration(view['uptime_s'])}"
        f"  v{view['version']}",
        f"{view['tier']}",
        *(f"{NOT_READY}{reason}" for reason in view["unready"]),
        f"cpu {resources['cpu_percent']:.0f} % (I/O {resources['io_cpu_percent']:.0f} %),"
        f"{_sizes(resources)}, pid {view['process']}",
    ]


def _sizes(resources: Mapping[str, Any]) -> str:
    """Follows a comma. A node that has no descriptor left cannot read them."""
    if resources["memory_bytes"] is None:
        return " memory, descriptors, threads not known"
    return (
        f" {resources['memory_bytes'] / 2**20:.0f} MiB, {resources['descriptors']} descriptors,"
        f" {resources['threads']} threads"
    )


def _traffic(view: Status) -> list[str]:
    rates, flight = view["rates"], view["in_flight"]
    connections, totals = view["connections"], view["totals"]
    return [
        f"{'per second':<10}{'received':>9}{'answered':>9}{'in flight':>10}{'total':>7}"
        f"  rates {'since start' if view['since_start'] else 'now'}",
        f"{'UDP':<10}{_count(rates['udp_received']):>9}{_count(rates['udp_answered']):>9}"
        f"{flight['udp']:>10}{_count(totals['udp_received']):>7}"
        f"  {_count(rates['votes'])} votes/s, {_count(rates['echoes'])} echoes/s",
        f"{'TCP':<10}{_count(rates['tcp_requests']):>9}{_count(rates['tcp_answered']):>9}"
        f"{flight['tcp']:>10}{_count(totals['tcp_requests']):>7}"
        f"  open {connections['open']}/{connections['max']},"
        f" {_count(rates['connections'])} new/s",
    ]


def _latency(view: Status) -> list[str]:
    lines = [f"{'latency':<14}{'count':>8}{'p50':>10}{'p90':>10}{'p99':>10}{'p99.9':>10}"]
    for kind, title in _LATENCIES.items():
        found = view["latency_us"][kind]
        values = "".join(f"{_time(found[name]):>10}" for name in PERCENTILES)
        lines.append(f"{title:<14}{_count(found['count']):>8}{values}")
    return lines


def _work(view: Status) -> list[str]:
    if view["lanes"] is None:
        return ["the I/O thread has ended"]
    lanes = view["lanes"]
    names = _columns(lanes)
    busy = _columns(f"{lane['busy']}/{lane['workers']}" for lane in lanes.values())
    queued = _columns(_count(lane["queued"]) for lane in lanes.values())
    # Without the blocks that workers hold in advance: an idle node would seem to leak.
    used = "  ".join(
        f"{_POOLS[name]} {used - view['lent'].get(name, 0)}/{most}"
        for name, (used, most) in view["memory"].items()
    )
    lines = [
        f"lane          {names}",
        f"busy          {busy}",
        f"queued        {queued}",
        f"memory        {used}",
    ]
    if (store := view["store"]) is not None:
        lines.append(_store(store))
    if (http := view["http"]) is not None and http["fault"] is not None:
        lines.append(f"HTTP          none: {http['fault']}")
    if dropped := view["log_dropped"]:
        lines.append(f"log           {dropped} lines dropped: not read, or not written")
    return lines


def _columns(texts: Iterable[str]) -> str:
    return "".join(f"{text:>{_LANE_COLUMNS}}" for text in texts)


def _store(store: Mapping[str, Any]) -> str:
    base = f"{_mib(store['used_bytes'])}/{_mib(store['map_bytes'])}"
    if "journal_bytes" not in store:  # a node of 0.2
        return f"store MiB     {base}"
    journal = f"{_mib(store['journal_bytes'])}/{_mib(store['journal_max_bytes'])}"
    age = _duration(store["checkpoint_age_s"])
    return f"store MiB     base {base}  journal {journal}  checkpoint {age} ago"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"


def _drops(view: Status) -> list[str]:
    drops = {name: one for name, one in view["drops"].items() if one["total"]}
    if not drops:
        return ["drops         none since start"]
    ordered = sorted(drops.items(), key=lambda item: (-item[1]["per_s"], -item[1]["total"]))
    lines = [f"{'drops':<28}{'per s':>10}{'total':>12}"]
    lines += [
        f"{name.replace('_dropped_', ' '):<28}{_count(one['per_s']):>10}{one['total']:>12}"
        for name, one in ordered[:_DROPS_SHOWN]
    ]
    if len(ordered) > _DROPS_SHOWN:
        lines.append(f"+ {len(ordered) - _DROPS_SHOWN} more reasons")
    return lines


def _commands(view: Status) -> list[str]:
    if not view["commands"]:
        return ["commands      none answered yet"]
    lines = [f"{'commands':<28}{'per s':>10}{'total':>12}{'mean':>10}   statuses"]
    ordered = sorted(view["commands"], key=lambda one: (-one["per_s"], -one["answered"]))
    for one in ordered:
        statuses = ", ".join(
            f"{_named(status)}: {_count(count)}"
            for status, count in sorted(one["statuses"].items(), key=lambda item: -item[1])
        )
        lines.append(
            f"{one['command']:<6}{one['name'][:21]:<22}{_count(one['per_s']):>10}"
            f"{one['answered']:>12}{_time(one['mean_us']):>10}   {statuses}"
        )
    return lines


def _named(status: str) -> str:
    """A status and its name; 250, the success, and statuses without a name stand alone."""
    name = status_name(int(status))
    return status if name == UNLISTED or status == "250" else f"{status} {name}"


def _count(value: float) -> str:
    """At least four digits, so that a small change of a large number shows."""
    for unit in ("", "k", "M"):
        if value < 10_000:
            return f"{value:.0f}{unit}" if unit == "" or value >= 1000 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.0f}G"


def _time(us: float | None) -> str:
    if us is None:
        return "-"
    if us < 1000:
        return f"{us:.0f} us"
    return f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.1f} s"


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d {h:02}:{m:02}:{s:02}" if days else f"{h}:{m:02}:{s:02}"


# --- Terminal ---------------------------------------------------------------------------------


def watch(look: Callable[[], Status], interval_s: float) -> None:
    """Draw the view every `interval_s` until q.

    look: asks for the status. Raises what it raises, and RaidaError for a terminal that cannot be
    drawn on.
    """
    try:
        curses.wrapper(_watch, look, interval_s)
    except KeyboardInterrupt:
        pass  # Ctrl-C is a way to quit
    except curses.error as error:
        terminal = os.environ.get("TERM") or "not set"
        raise RaidaError(
            f"the terminal (TERM is {terminal!r}) cannot be drawn on: {error}; TERM=xterm-256color "
            "suits most, --once does without"
        ) from None


def _watch(screen: Any, look: Callable[[], Status], interval_s: float) -> None:
    try:
        curses.curs_set(0)
    except curses.error:
        pass  # a terminal that cannot hide it
    if curses.has_colors():
        with contextlib.suppress(curses.error):
            curses.use_default_colors()
            curses.init_pair(_RED, curses.COLOR_RED, -1)
    before: Status | None = None
    now = look()
    while True:
        _draw(screen, now, before)
        next_at = time.monotonic() + interval_s
        while (left_s := next_at - time.monotonic()) > 0:
            screen.timeout(max(1, int(left_s * 1000)))
            key = screen.getch()
            if key in (ord("q"), ord("Q"), 27):
                return
            if key == curses.KEY_RESIZE:
                _draw(screen, now, before)
        before, now = now, look()


def _draw(screen: Any, now: Status, before: Status | None) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for row, line in enumerate(render(now, before, width - 1, height - 1)):
        _put(screen, row, line, _style(row, line))
    _put(screen, height - 1, "q quits"[: width - 1], curses.A_DIM)
    screen.refresh()


def _style(row: int, line: str) -> int:
    if line.startswith(NOT_READY):
        return curses.A_BOLD | (curses.color_pair(_RED) if curses.has_colors() else 0)
    return curses.A_BOLD if row == 0 else curses.A_NORMAL


def _put(screen: Any, row: int, line: str, style: int) -> None:
    try:
        screen.addstr(row, 0, line.encode("ascii", "replace"), style)  # whatever the locale
    except curses.error:
        pass  # the terminal has become smaller
