"""Checks of starts that find something in their way."""

import contextlib
import functools
import pathlib
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator

from tools.systemd.proof import (
    CLOSING_S,
    CONFIG,
    HTTP_PORT,
    LATE_S,
    PORT,
    PROMPT_S,
    SOCKET_UNIT,
    STATE,
    UNIT,
    WATCHDOG_S,
    answers,
    ask_udp,
    check,
    configured,
    cursor,
    eventually,
    extended,
    journal,
    logged,
    must,
    must_be_active,
    run,
    shown,
    stopped,
    systemctl,
)


def ip(*arguments: str) -> str:
    """What iproute2 printed."""
    done = subprocess.run(
        ["ip", *arguments], check=True, timeout=30, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@contextlib.contextmanager
def interface(name: str = "proof") -> Iterator[None]:
    """A virtual one that has a carrier, and no address but its link-local one."""
    ip("link", "add", "name", name, "type", "veth", "peer", "name", "proof-peer")
    try:
        ip("link", "set", "proof-peer", "up")
        ip("link", "set", name, "up")
        yield
    finally:
        ip("link", "delete", name)


def bound_to(address: str) -> str:
    """The configuration with one address."""
    return CONFIG.read_text().replace('"0.0.0.0", "::"', f'"{address}"')


def begin_start() -> None:
    """Without waiting for what comes of it."""
    stopped()
    systemctl("start", "--no-block", UNIT)


def must_wait(seconds: float) -> str:
    """For what it waits, as `systemctl status` shows it. Raises NotSoError unless it does."""
    eventually(
        lambda: shown("StatusText").startswith("waiting: "), PROMPT_S, "no STATUS that it waits"
    )
    time.sleep(seconds)
    must(shown("ActiveState") == "activating", shown("ActiveState"))
    must(shown("NRestarts") == "0", f"NRestarts={shown('NRestarts')}")
    return shown("StatusText")


def active_within(timeout_s: float, restarts: int = 0) -> float:
    """Seconds until the unit is. Raises NotSoError, also for another number of restarts."""
    took_s = eventually(lambda: shown("ActiveState") == "active", timeout_s, "not active")
    must_be_active(restarts)
    return took_s


@check
def late_address() -> str:
    """an address of [network] bind comes after the start: active at once, answers there then"""
    seen = []
    for address, length in (("192.0.2.14", 24), ("2001:db8::14", 64)):
        with interface(), configured(bound_to(address)):
            since = cursor()
            begin_start()
            active_s = active_within(PROMPT_S)
            logged("address_missing", since)
            time.sleep(LATE_S)
            must(not answers(address), "answers on an address that is not there")
            ip("address", "add", f"{address}/{length}", "dev", "proof")
            took_s = eventually(functools.partial(answers, address), PROMPT_S, "no answer")
            must_be_active()
            systemctl("stop", UNIT)
            seen.append(f"{address}: active after {active_s:.1f} s, answers after {took_s:.1f} s")
    return "; ".join(seen)


@check
def late_address_of_the_socket_unit() -> str:
    """raida-uring.socket has an address before an interface has: the node serves it then"""
    address, drop_in = "192.0.2.16", pathlib.Path(f"/etc/systemd/system/{SOCKET_UNIT}.d/proof.conf")
    drop_in.parent.mkdir(exist_ok=True)
    place = f"{address}:{PORT}"  # in place of all others
    drop_in.write_text(f"[Socket]\nListenStream=\nListenStream={place}\nListenDatagram={place}\n")
    try:
        with interface(), configured(bound_to(address)):
            stopped()
            systemctl("daemon-reload")
            systemctl("start", SOCKET_UNIT)
            ip("address", "add", f"{address}/24", "dev", "proof")
            must(ask_udp(timeout_s=20, host=address) == 250, "another status")
            must(answers(address), "no answer")
            active_within(PROMPT_S)  # it answers before systemd has heard that it is ready
            stopped()
    finally:
        drop_in.unlink()
        systemctl("daemon-reload")
    return f"{address}: answers the datagram that started it"


@check
def tentative_address() -> str:
    """duplicate address detection at the start: active at once, answers once the address is good"""
    address = "2001:db8::15"
    with interface(), configured(bound_to(address)):
        probes = pathlib.Path("/proc/sys/net/ipv6/conf/proof/dad_transmits")
        probes.write_text("6")  # one a second
        since = cursor()
        stopped()
        ip("address", "add", f"{address}/64", "dev", "proof")
        systemctl("start", "--no-block", UNIT)
        active_s = active_within(PROMPT_S)
        tentative = "tentative" in ip("address", "show", "dev", "proof", "to", address)
        must(tentative, f"the case was not met: active after {active_s:.1f} s")
        logged("address_missing", since)
        took_s = eventually(lambda: answers(address), 20, "no answer")
        must_be_active()
        systemctl("stop", UNIT)
    return f"active after {active_s:.1f} s, answers {took_s:.1f} s later"


@check
def late_interface() -> str:
    """an interface of [network] bind comes after the start, which waits: active then"""
    address = "fe80::14%late"
    with configured(bound_to(address)):
        begin_start()
        text = must_wait(LATE_S)
        with interface("late"):
            ip("address", "add", "fe80::14/64", "dev", "late", "nodad")
            took_s = active_within(PROMPT_S)
            eventually(lambda: answers(address), PROMPT_S, "no answer")
            must_be_active()
            systemctl("stop", UNIT)
    return f"{text}; active {took_s:.1f} s after it"


@contextlib.contextmanager
def outgoing(port: int, host: str = "127.0.0.7") -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from `port` of this machine: its client's and its server's end.

    host: not where clients asked before, whose connections are in TIME-WAIT.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
        with socket.create_connection(where, 5, (host, port)) as asking:
            accepted, _ = server.accept()
            with accepted:
                yield asking, accepted


def reset(one: socket.socket) -> None:
    """Close it so that nothing waits for late segments."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@check
def port_of_a_connection() -> str:
    """the port is an outgoing connection's at the start, which waits: active once it is free"""
    stopped()
    with outgoing(PORT) as (asking, _):
        begin_start()
        text = must_wait(LATE_S)
        reset(asking)
        took_s = active_within(PROMPT_S)
        must(answers(), "no answer")
    return f"{text}; active {took_s:.1f} s after it"


@check
def port_in_time_wait() -> str:
    """the port is held longer than a start waits: it ends with 1, the next one serves"""
    extended(f"TimeoutStartSec={WATCHDOG_S}s")  # which the node asks to be longer
    stopped()
    since = cursor()
    with outgoing(PORT) as (asking, accepted):
        began = time.monotonic()
        begin_start()
        must_wait(LATE_S)
        asking.close()
        accepted.close()
        active_within(CLOSING_S + 3 * PROMPT_S, restarts=1)
        took_s = time.monotonic() - began
    must(answers(), "no answer")
    extended("")
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    must(any("status=1/FAILURE" in text for text in said), f"no exit status 1: {said}")
    return f"active after {took_s:.0f} s, 1 restart"


@check
def exit_status_1() -> str:
    """what ends a start with 1 is tried again as often as it takes"""
    stopped()
    since = cursor()
    extended("LimitNPROC=1")
    systemctl("start", "--no-block", UNIT)
    tries = 11  # within more than the ten seconds of StartLimitIntervalSec=
    eventually(lambda: int(shown("NRestarts")) >= tries, 60, f"{shown('NRestarts')} restarts")
    must(shown("ActiveState") == "activating", shown("ActiveState"))
    extended("")
    eventually(lambda: shown("ActiveState") == "active", PROMPT_S, "not active")
    must(answers(), "no answer")
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    ended = [text for text in said if "Main process exited" in text]
    must(all("status=1/FAILURE" in text for text in ended), str(ended))
    line = next((text for text in said if text.startswith("raida-uring: ")), "")
    must(line, f"no reason: {said}")
    must(not any("Traceback" in text for text in said), str(said))
    return f"{len(ended)} tries; {line}"


def http_answers() -> bool:
    """Whether the node says by HTTP that it is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def taken_by_servers(admin: pathlib.Path) -> Iterator[None]:
    """Both places."""
    with (
        socket.create_server(("127.0.0.1", HTTP_PORT)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other,
    ):
        other.bind(str(admin))
        other.listen()
        yield
        admin.unlink()


@contextlib.contextmanager
def taken_otherwise(admin: pathlib.Path) -> Iterator[None]:
    """The port by a client, the path by a directory."""
    admin.mkdir()
    try:
        with outgoing(HTTP_PORT, "127.0.0.1") as (asking, _):
            yield
            reset(asking)
    finally:
        admin.rmdir()


@check
def places_of_operators_taken() -> str:
    """metrics port and admin path are taken: active all the same, and there once they are free"""
    admin = STATE / "proof.sock"
    text = f'{CONFIG.read_text()}\n[admin]\nsocket = "{admin}"\n'
    seen = []
    for taken in (taken_otherwise, taken_by_servers):  # by a client while HTTP had none
        with configured(text):
            stopped()
            with taken(admin):
                since = cursor()
                begin_start()
                active_s = active_within(PROMPT_S)
                must(answers(), "no answer")
                logged("http_failed", since)
                logged("admin_socket_failed", since)
                time.sleep(LATE_S)  # longer than it waits between two tries
                must(answers(), "no answer any more")
                must_be_active()
            took_s = eventually(http_answers, PROMPT_S, "no HTTP")
            eventually(
                lambda: run("status", "--config", str(CONFIG)).returncode == 0,
                PROMPT_S,
                "no admin socket",
            )
            must_be_active()
            systemctl("stop", UNIT)
        seen.append(f"active after {active_s:.1f} s, there {took_s:.1f} s after it was free")
    return "; ".join(seen)
