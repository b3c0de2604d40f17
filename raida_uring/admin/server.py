"""The admin socket: what an operator asks of a running node.

It has a thread of its own, so that neither the data plane nor a worker waits for an operator, nor
an operator for them. Only root and the node's own user are answered (SO_PEERCRED), whatever the
permissions of the path. Requests, clients and answers are bounded. The format is that of client.py.
"""

import contextlib
import json
import os
import queue
import selectors
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from raida_uring import log
from raida_uring.admin.client import default_path, peer_of
from raida_uring.admin.node import Node, Served
from raida_uring.descriptors import Reserve
from raida_uring.errors import RaidaError, StartError
from raida_uring.ffi import native
from raida_uring.handlers.message import unpack_peer
from raida_uring.log import events
from raida_uring.observe.status import for_operators
from raida_uring.threads import Vital

CLIENTS_MAX: Final = 16
REQUEST_BYTES_MAX: Final = 4096
CONNECTIONS_LISTED_MAX: Final = 65535
PEERS_LISTED_MAX: Final = 256
DRAIN_TIMEOUT_S_MAX: Final = 86400.0
STUCK_S: Final = 10.0  # a client that does not take its answer is let go
IDLE_S: Final = 60.0  # and one that asks nothing ...
IDLE_CROWDED_S: Final = 2.0  # ... or, when a further one comes and there is no place for it
END_S: Final = 1.0  # all that clients have for their last answers; the node waits meanwhile
PROGRESS_INTERVAL_S: Final = 0.2
ACCEPT_PAUSE_S: Final = 0.1  # when there is no descriptor to accept with


class _RequestError(RaidaError):
    """The text is what the client gets."""


# --- The thread -------------------------------------------------------------------------------


class _Client:
    """One connection: what it has sent, and what it has not read yet."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.received = bytearray()
        self.unsent = bytearray()
        self.moved_at = time.monotonic()
        self.drain: _Drain | None = None  # whose progress it is told
        self.upgrade: queue.SimpleQueue[int | StartError] | None = None  # it waits for that

    def send(self, answer: dict[str, object]) -> None:
        """Send as much as fits the socket, keep the rest. Raises OSError."""
        self.unsent += json.dumps(answer).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Raises OSError."""
        try:
            while self.unsent:
                del self.unsent[: self.channel.send(self.unsent)]
                self.moved_at = time.monotonic()
        except BlockingIOError:
            pass

    def stuck(self, now: float) -> bool:
        """Whether it does not read its answer. now: time.monotonic()."""
        return bool(self.unsent) and now - self.moved_at > STUCK_S

    def idle_s(self, now: float) -> float:
        """For how long it has asked nothing; 0 while it has an answer to come, or a request that
        was not read yet."""
        if self.unsent or self.drain is not None or self.upgrade is not None:
            return 0.0
        try:
            asked = bool(self.channel.recv(1, socket.MSG_PEEK))
        except OSError:
            asked = False
        return 0.0 if asked else now - self.moved_at


class _Drain:
    """A drain's progress, for the client that asked for it."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._since = time.monotonic()
        self._dropped_before = _dropped_by_drain(server.counters())

    def progress(self) -> dict[str, object]:
        counters = self._server.counters()
        return {
            "phase": self._server.phase,
            "elapsed_s": round(time.monotonic() - self._since, 3),
            "in_flight": counters["udp_in_flight"] + counters["tcp_in_flight"],
            "connections": counters["connections_open"],
            "dropped": _dropped_by_drain(counters) - self._dropped_before,
        }


def _dropped_by_drain(counters: dict[str, int]) -> int:
    return counters["udp_dropped_drain"] + counters["tcp_dropped_drain"]


class Admin:
    """The listening socket and its thread. Thread: the one that made it, unless stated."""

    def __init__(self, node: Node, path: Path) -> None:
        """Answer from now on. Raises StartError."""
        try:
            self._path = path.absolute()
        except OSError as error:  # the directory that it is relative to is gone
            raise StartError(
                f"[admin] socket {path}: the current directory is gone: name the whole path"
            ) from error
        self._node = node
        self._server = node.server
        self._commands: dict[str, Callable[[_Client, dict[str, Any]], dict[str, object] | None]] = {
            "status": self._status,
            "connections": self._connections,
            "peers": self._peers,
            "log-level": self._log_level,
            "reload": self._reload,
            "drain": self._drain,
            "upgrade": self._upgrade,
            "stop": self._stop,
        }
        self._clients: list[_Client] = []
        self._closing = False
        self._thread = Vital(target=self._run, name="admin", daemon=True)
        with contextlib.ExitStack() as undone:
            try:
                self._listener = undone.enter_context(_listen(self._path))
                undone.callback(self._path.unlink)
                found = self._path.stat()
                self._selector = undone.enter_context(selectors.DefaultSelector())
                self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undone.callback(os.close, self._wake_in)
                undone.callback(os.close, self._wake_out)
                self._reserve = Reserve()
                undone.callback(self._reserve.close)
                self._thread.start()
            except (OSError, RuntimeError, MemoryError) as error:  # no descriptor, no thread
                raise StartError(f"[admin] socket {path}: {error}") from error
            undone.pop_all()
        self._identity = found.st_dev, found.st_ino
        events.ADMIN_SOCKET.log(path=self._path)

    def close(self) -> None:
        """Tell those who watch a drain how it ended, and remove the socket."""
        self._closing = True
        os.write(self._wake_out, b"x")
        self._thread.join()
        self._listener.close()
        try:
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._identity:  # not a successor's
                self._path.unlink()
        except OSError:
            pass  # gone already
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._reserve.close()

    # -- its own thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        while not self._closing:
            for key, _ in self._selector.select(self._timeout_s()):
                if key.data == self._accept:
                    self._accept()
                elif isinstance(key.data, _Client):
                    self._guarded(key.data, self._serve)
            now = time.monotonic()
            for client in list(self._clients):
                if client.stuck(now):
                    self._forget(client)
                elif client.idle_s(now) > IDLE_S:
                    self._dismiss(client)
                elif client.drain is not None and not client.unsent:
                    self._guarded(client, self._report_drain)
                elif client.upgrade is not None and not client.unsent:
                    self._guarded(client, self._report_upgrade)
        self._end()

    def _timeout_s(self) -> float | None:
        if any(client.drain or client.upgrade is not None for client in self._clients):
            return PROGRESS_INTERVAL_S
        return 1.0 if self._clients else None

    def _accept(self) -> None:
        self._reserve.fill()
        try:
            channel = self._reserve.accept(self._listener)
        except BlockingIOError:
            return  # gone again
        except OSError:  # no descriptor
            if not self._make_place():
                time.sleep(ACCEPT_PAUSE_S)  # the client is there at once again
            return
        channel.setblocking(False)
        client = _Client(channel)
        refusal = _refuse_user(channel)
        full = len(self._clients) >= CLIENTS_MAX
        if refusal is None and full and not self._make_place():
            refusal = f"{CLIENTS_MAX} clients already: too many"
        try:
            if refusal is None:
                self._selector.register(channel, selectors.EVENT_READ, client)
                self._clients.append(client)
                return
            client.send({"error": refusal})
        except OSError:
            pass  # it left by itself, or there is no descriptor
        channel.close()

    def _guarded(self, client: _Client, work: Callable[[_Client], None]) -> None:
        """Do `work`; forget the client if it has left."""
        try:
            work(client)
            events = selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ
            if client in self._clients:
                self._selector.modify(client.channel, events, client)
        except OSError:
            self._forget(client)

    def _dismiss(self, client: _Client) -> None:
        """Disconnect a client that asks nothing."""
        with contextlib.suppress(OSError):
            client.send({"error": "nothing was asked for too long"})
        self._forget(client)

    def _make_place(self) -> bool:
        """For one more: of those that ask nothing, the one that has been silent longest leaves."""
        now = time.monotonic()
        longest = max(self._clients, key=lambda client: client.idle_s(now), default=None)
        if longest is None or longest.idle_s(now) <= IDLE_CROWDED_S:
            return False
        self._dismiss(longest)
        return True

    def _forget(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.channel)
            client.channel.close()
            self._reserve.fill()

    def _serve(self, client: _Client) -> None:
        """Raises OSError."""
        if client.unsent:
            client.flush()  # what it asks further waits
        else:
            chunk = client.channel.recv(REQUEST_BYTES_MAX)
            if not chunk:
                self._forget(client)
                return
            client.received += chunk
        while (end := client.received.find(b"\n")) >= 0 and not client.unsent:
            line = bytes(client.received[:end])
            del client.received[: end + 1]
            self._answer(client, line)
        if end < 0 and len(client.received) > REQUEST_BYTES_MAX:
            client.send({"error": f"a request is at most {REQUEST_BYTES_MAX} bytes long"})
            self._forget(client)

    def _answer(self, client: _Client, line: bytes) -> None:
        """Raises OSError."""
        try:
            result = self._execute(client, line)
        except RaidaError as error:
            client.send({"error": str(error)})
        except Exception as error:
            events.ADMIN_FAILED.log(exc_info=True)
            client.send({"error": f"internal error: {error!r}"})
        else:
            if result is not None:
                client.send({"result": result})

    def _execute(self, client: _Client, line: bytes) -> dict[str, object] | None:
        """Raises RaidaError."""
        try:
            given = json.loads(line)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise _RequestError("a request is one JSON object per line")
        name = given.pop("command", None)
        if not isinstance(name, str) or name not in self._commands:
            raise _RequestError(f"commands are {', '.join(self._commands)}")
        return self._commands[name](client, given)

    def _report_drain(self, client: _Client) -> None:
        """Raises OSError."""
        if client.drain is not None:
            client.send({"progress": client.drain.progress()})

    def _report_upgrade(self, client: _Client, *, pending: bool = True) -> None:
        """Raises OSError."""
        if client.upgrade is None:
            return
        try:
            outcome = client.upgrade.get_nowait()
        except queue.Empty:
            if pending:
                client.send({"progress": {"phase": "starting the successor"}})
            return
        client.upgrade = None
        if isinstance(outcome, StartError):
            client.send({"error": str(outcome)})
        else:
            client.send({"result": {"process": outcome}})

    def _end(self) -> None:
        """The node has stopped, or never started: tell whoever waits, within END_S."""
        deadline = time.monotonic() + END_S
        for client in self._clients:
            try:
                self._report_upgrade(client, pending=False)
                if client.drain is not None:
                    final = {**client.drain.progress(), "counters": self._server.counters()}
                    client.channel.settimeout(max(0.0, deadline - time.monotonic()))
                    client.send({"result": final})
            except (OSError, RaidaError):
                pass  # it left first
            client.channel.close()
        self._selector.close()

    # -- commands ---------------------------------------------------------------------------------

    def _status(self, _client: _Client, _given: dict[str, Any]) -> dict[str, object]:
        file = self._node.file  # whose node it is; not told over HTTP
        return {
            **for_operators(self._server.observe()),
            "config": None if file is None else os.path.realpath(file),
        }

    def _connections(self, _client: _Client, given: dict[str, Any]) -> dict[str, object]:
        limit = _whole(given, "limit", 1000, CONNECTIONS_LISTED_MAX)
        found: list[dict[str, object]] = []
        first = 0
        while len(found) < limit:
            listed, first = self._server.connections(first)
            if not listed:
                break
            found += map(_describe, listed)
        counters = self._server.counters()
        return {"open": counters["connections_open"], "connections": found[:limit]}

    def _peers(self, _client: _Client, given: dict[str, Any]) -> dict[str, object]:
        window_s, peers = self._server.peers(_whole(given, "count", 20, PEERS_LISTED_MAX))
        limited, count = self._server.limited()
        return {
            "window_s": round(window_s, 1),
            "peers": [{"address": host, "requests": round(weight)} for host, weight in peers],
            "limited_count": count,
            "limited": [
                {"who": one.who, "transport": one.transport, "rest_s": round(one.rest_s, 1)}
                for one in limited
            ],
        }

    def _log_level(self, _client: _Client, given: dict[str, Any]) -> dict[str, object]:
        level = given.get("level")
        if level is not None:
            if level not in log.LEVELS:
                raise _RequestError(f"level is one of {', '.join(log.LEVELS)}")
            self._server.set_log_level(level)
        return {"level": log.current_level()}

    def _reload(self, _client: _Client, _given: dict[str, Any]) -> dict[str, object]:
        reloaded = self._node.reload()
        return {
            "applied": [str(change) for change in reloaded.applied],
            "restart": [str(change) for change in reloaded.restart],
        }

    def _drain(self, client: _Client, given: dict[str, Any]) -> None:
        default_s = self._server.config.network.drain_timeout_ms / 1000
        timeout_s = given.get("timeout_s", default_s)
        if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= DRAIN_TIMEOUT_S_MAX:
            raise _RequestError(f"timeout_s is a number from 0 to {DRAIN_TIMEOUT_S_MAX:g}")
        drain = _Drain(self._server)  # before: it counts what is dropped from now on
        self._begin_drain(timeout_s)
        client.drain = drain

    def _upgrade(self, client: _Client, _given: dict[str, Any]) -> None:
        client.upgrade = self._node.begin_upgrade()

    def _stop(self, _client: _Client, _given: dict[str, Any]) -> dict[str, object]:
        timeout_s = self._server.config.network.drain_timeout_ms / 1000
        self._begin_drain(timeout_s)
        return {"phase": self._server.phase, "timeout_s": timeout_s}

    def _begin_drain(self, timeout_s: float) -> None:
        events.DRAIN_ASKED.log(timeout_s=timeout_s, timeout_ms=round(timeout_s * 1000))
        self._node.begin_drain(round(timeout_s * 1000))


# --- Its path -----------------------------------------------------------------------------------


def path_of(server: Served) -> Path:
    """The path that the configuration names, otherwise the default one."""
    given = server.config.admin.socket
    return Path(given) if given else default_path(server.endpoints[0][1])


def _listen(path: Path) -> socket.socket:
    """The listening socket, which does not block. Raises StartError."""
    with contextlib.ExitStack() as undone:
        listener = undone.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            _prepare_directory(path.parent)
            _remove_stale(path)
            # Before bind(), so that others can connect at no moment.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(path))
            listener.listen(CLIENTS_MAX)
            listener.setblocking(False)
        except OSError as error:
            raise StartError(f"[admin] socket {path}: {error.strerror or error}") from error
        undone.pop_all()
    return listener


def _prepare_directory(directory: Path) -> None:
    """Make it for this user alone. An existing one must belong to this user or root, and nobody
    else may write to it: they could replace the socket by their own. Raises OSError,
    StartError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise StartError(f"[admin] socket: {directory} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        raise StartError(f"[admin] socket: others may write to {directory}")


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises OSError, or StartError if somebody does."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartError(f"[admin] socket {path}: there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the listener may be stopped, or busy
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full
    raise StartError(f"[admin] socket {path}: another node listens there")


# --- Requests -----------------------------------------------------------------------------------


def _refuse_user(channel: socket.socket) -> str | None:
    """Why whoever connected is not answered; None if it is."""
    process, user = peer_of(channel)
    if user in (0, os.geteuid()):
        return None
    events.ADMIN_REFUSED.log(process=process, user=user)
    return "only root and the node's own user are answered"


def _whole(given: dict[str, Any], name: str, default: int, most: int) -> int:
    value = given.get(name, default)
    if type(value) is not int or not 1 <= value <= most:
        raise _RequestError(f"{name} is an integer from 1 to {most}")
    return value


def _describe(one: native.Connection) -> dict[str, object]:
    host, port = unpack_peer(one.peer) if any(one.peer) else (None, None)
    return {
        "address": host,
        "port": port,
        "state": one.state,
        "age_s": round(one.age_s, 3),
        "in_state_s": round(one.state_s, 3),
        "requests": one.requests,
    }
