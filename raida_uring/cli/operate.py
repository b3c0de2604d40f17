"""Commands that ask a running node: status, top, connections, peers, drain, upgrade, reload,
log-level.

Each speaks to the admin socket. A node that does not run ends them with one line and exit status 3.
"""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from raida_uring import log
from raida_uring.admin.client import NodeError, Wanted, ask, find, result_of
from raida_uring.cli import top
from raida_uring.cli.console import EXIT_DROPPED
from raida_uring.cli.options import Json, config_option, load_config
from raida_uring.errors import ConfigError, RaidaError

_TAKEOVER_TIMEOUT_S = 5.0  # for the successor to have the admin socket
_TAKEOVER_LOOK_S = 0.05

_Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        readable=False,
        help="The node's admin socket. Only root and the node's own user are answered.",
    ),
]
_ConfigFile = Annotated[
    Path | None,
    config_option(
        "TOML file that the node serves, to find its socket. Without either option: the node on "
        "port 50000, else the service."
    ),
]


def _complete_level(incomplete: str) -> list[str]:
    return [level for level in log.LEVELS if level.startswith(incomplete)]


def _place(given: Path | None, config_path: Path | None) -> tuple[Path, Wanted | None]:
    """Where to ask, and which node the configuration describes; None if --socket names the socket.

    Raises ConfigError, and what admin.client.find() raises.
    """
    if given is not None:
        return given, None
    chosen = load_config(config_path)
    wanted = Wanted(chosen.server.raida_id, chosen.server.port, config_path)
    if chosen.admin.socket is not None:
        return Path(chosen.admin.socket), wanted
    if chosen.server.port == 0:
        raise RaidaError("the port is any free one: name the admin socket with --socket")
    return find(wanted), None if config_path is None else wanted


def _node(given: Path | None, config_path: Path | None) -> Callable[..., dict[str, Any]]:
    """The node to ask: called with a command and its arguments, as admin.client.result_of()."""
    path, wanted = _place(given, config_path)
    return functools.partial(result_of, path, wanted=wanted)


def status(socket: _Socket = None, config_path: _ConfigFile = None, as_json: Json = False) -> None:
    """Print the state of a running node.

    Tier and why, uptime, load, latency, drops, resources.
    """
    now = _node(socket, config_path)("status")
    if as_json:
        print(json.dumps(now, indent=2))
    else:
        _print_view(top.render(now, None, 200, 1000))


def _print_view(lines: list[str]) -> None:
    """Print the view, with the reasons against readiness in red where the output has colours."""
    red, plain = ("\x1b[31m", "\x1b[0m") if _shows_colours() else ("", "")
    for line in lines:
        text = line.rstrip()
        print(f"{red}{text}{plain}" if text.startswith(top.NOT_READY) else text)


def _shows_colours() -> bool:
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def live_top(
    socket: _Socket = None,
    config_path: _ConfigFile = None,
    interval_s: Annotated[
        float,
        typer.Option(
            "-d", "--interval", metavar="S", min=0.1, max=3600, help="Seconds between looks."
        ),
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look for one interval, print, and end.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --once: print JSON, for programs.")
    ] = False,
) -> None:
    """Watch a running node live.

    Rates, latency, queues, drops, workers, connections. q quits.
    """
    if as_json and not once:
        raise typer.BadParameter("goes with --once", param_hint="--json")
    node = _node(socket, config_path)
    if not once:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise RaidaError("top needs a terminal; --once does without")
        top.watch(functools.partial(node, "status"), interval_s)
        return
    before = node("status")
    time.sleep(interval_s)  # the interval that is measured
    now = node("status")
    if as_json:
        print(json.dumps(top.summary(now, before), indent=2))
    else:
        _print_view(top.render(now, before, 200, 1000))


def connections(
    socket: _Socket = None,
    config_path: _ConfigFile = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Print so many at most.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """List open TCP connections."""
    found = _node(socket, config_path)("connections", limit=limit)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'ADDRESS':<46}{'STATE':<20}{'AGE S':>10}{'REQUESTS':>10}")
    for one in found["connections"]:
        place = "unknown" if one["address"] is None else f"{one['address']} {one['port']}"
        print(f"{place:<46}{one['state']:<20}{one['age_s']:>10.1f}{one['requests']:>10}")
    print(f"{len(found['connections'])} of {found['open']} open connections")


def peers(
    socket: _Socket = None,
    config_path: _ConfigFile = None,
    count: Annotated[
        int, typer.Option("-c", "--count", metavar="N", min=1, max=256, help="So many at most.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List the busiest peers, and those that are limited.

    The busiest in the last one to two minutes, estimated from samples of the commands that were
    answered, votes and plain echoes aside. Limited are those that have failed too many checks of a
    key or other secret, see [limits] failed_checks_burst.
    """
    found = _node(socket, config_path)("peers", count=count)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("\n".join(peers_lines(found)))


def peers_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The peers of a node as text. found: the admin socket's answer to `peers`."""
    if found["peers"]:
        window_s = max(found["window_s"], 0.1)
        yield f"{'ADDRESS':<46}{'REQUESTS':>12}{'PER S':>12}"
        for one in found["peers"]:
            yield f"{one['address']:<46}{one['requests']:>12}{one['requests'] / window_s:>12.1f}"
        yield f"in the last {found['window_s']:g} s"
    else:
        yield f"no command was answered in the last {found['window_s']:g} s"
    count, limited = found.get("limited_count", 0), found.get("limited", ())
    if count:
        yield ""
        yield "not looked at, after too many failed checks of a key or other secret:"
        yield f"{'WHO':<46}{'OVER':>12}{'FOR S':>12}"
        for one in limited:
            yield f"{one['who']:<46}{one['transport'] or 'udp':>12}{one['rest_s']:>12.1f}"
        if len(limited) < count:
            yield f"and {count - len(limited)} more"


def drain(
    socket: _Socket = None,
    config_path: _ConfigFile = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="S",
            min=0,
            max=86400,
            help="Seconds for requests in flight; by default [network] drain_timeout_ms.",
        ),
    ] = None,
) -> int:
    """Stop a node after it has answered its requests.

    It accepts nothing new, answers the requests it has, and ends. Prints progress. Exits 0 if
    everything was answered, 1 if requests were given up.
    """
    given: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
    last: dict[str, Any] = {}
    shown = ""
    path, wanted = _place(socket, config_path)
    for last in ask(path, "drain", wanted=wanted, **given):
        line = f"{last['phase']}: {last['in_flight']} in flight, {last['connections']} connections"
        if line != shown:
            print(f"{last['elapsed_s']:7.1f} s  {line}", flush=True)
            shown = line
    print(f"stopped; {last['dropped']} requests given up")
    return EXIT_DROPPED if last["dropped"] else 0


def log_level(
    level: Annotated[
        str | None,
        typer.Argument(
            metavar=f"[{'|'.join(log.LEVELS)}]",
            autocompletion=_complete_level,
            help="Without it: print the level.",
        ),
    ] = None,
    socket: _Socket = None,
    config_path: _ConfigFile = None,
) -> None:
    """Print or set the log level of a node.

    The least severity written, until the next start or reload.
    """
    given = {} if level is None else {"level": level}
    print(_node(socket, config_path)("log-level", **given)["level"])


def upgrade(socket: _Socket = None, config_path: _ConfigFile = None) -> None:
    """Replace a running node by the version installed now.

    Exits 2 when the new node does not start, and says why; the running node then goes on.
    """
    node = _node(socket, config_path)
    before = node("status")
    successor = node("upgrade")["process"]
    versions = f"{before['version']} \u2192 {_version_of(node, successor)}"
    print(f"{versions}: process {successor} serves, {before['process']} leaves")


def _version_of(node: Callable[..., dict[str, Any]], process: int) -> str:
    """The version of the node that is taking over the admin socket."""
    deadline = time.monotonic() + _TAKEOVER_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(RaidaError):  # neither process listens for a moment
            told = node("status")
            if told["process"] == process:
                return str(told["version"])
        time.sleep(_TAKEOVER_LOOK_S)  # nobody tells
    return "?"


def reload(socket: _Socket = None, config_path: _ConfigFile = None) -> None:
    """Let a node read its configuration file again.

    Prints what was applied and what needs a restart. Exits 2 when the file has a fault: nothing has
    changed then.
    """
    try:
        found = _node(socket, config_path)("reload")
    except (ConfigError, NodeError) as error:  # a faulty file may also hide the socket
        raise RaidaError(f"not reloaded, nothing changed: {error}") from None
    for change in found["applied"]:
        print(f"applied: {change}")
    for change in found["restart"]:
        print(f"needs a restart: {change}")
    if not found["applied"] and not found["restart"]:
        print("nothing has changed")
