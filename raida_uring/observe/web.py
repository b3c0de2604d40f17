"""The HTTP side: status page, metrics, health and readiness, for people and for their monitoring.

A thread of its own runs an asyncio loop. What strangers can use of it is bounded: the number of
connections, the bytes of a request, the time from connect to close, and how often a costly answer
is made. Every answer closes its connection. GET and HEAD only; the path is the only input, and no
request changes the node. A request whose Host is a stranger's name is refused: a page elsewhere on
the web whose name leads to this address (DNS rebinding) cannot read the answers.

Built on asyncio rather than http.server, whose time-outs are per read: a peer that sends a byte now
and then would hold a thread for as long as it likes. Source: RFC 9110, RFC 9112.
"""

import asyncio
import contextlib
import importlib.resources
import ipaddress
import json
import os
import re
import select
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

from raida_uring.addresses import bind_address, format_endpoint
from raida_uring.config import HttpTable
from raida_uring.descriptors import Reserve
from raida_uring.errors import StartError
from raida_uring.log import events
from raida_uring.observe import prometheus
from raida_uring.observe.readiness import unready
from raida_uring.observe.snapshot import Snapshot
from raida_uring.observe.status import for_page
from raida_uring.threads import Vital

CONNECTIONS_MAX: Final = 32  # a further one takes the place of the oldest
HEAD_BYTES_MAX: Final = 8192  # of a request; a browser sends some 500
EXCHANGE_TIMEOUT_S: Final = 5.0  # from connect to close
BEAT_TIMEOUT_S: Final = 1.0  # for the I/O thread to begin a lap; none takes that long
BEAT_LOOK_S: Final = 0.002
SHARE_INTERVAL_S: Final = 0.1  # between two looks at the node, however many ask for them
ACCEPT_RETRY_S: Final = 0.05  # without a descriptor

_TEXT: Final = "text/plain; charset=utf-8"
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
# The page brings everything along and asks only its own node.
_HEADERS: Final = (
    "Cache-Control: no-store\r\n"
    "Connection: close\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Request:
    """host: whom it asks for. None: it does not say, which is right before HTTP/1.1 only."""

    method: str
    path: str
    host: str | None
    version: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = _TEXT


def _refusal(status: HTTPStatus, why: str) -> _Answer:
    return _Answer(status, f"{why}\n".encode())


class _Shared(Generic[_T]):
    """A costly result, computed once for all who wait for it, and at most every SHARE_INTERVAL_S.

    Nobody gets a result that was computed before they asked. Thread: that of the event loop.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made_at = -SHARE_INTERVAL_S
        self._coming: asyncio.Task[_T] | None = None

    async def get(self) -> _T:
        """Raises what making it raises."""
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._make_in_time())
            self._coming.add_done_callback(lambda made: made.cancelled() or made.exception())
        return await asyncio.shield(self._coming)  # a caller that leaves cancels it for no other

    async def _make_in_time(self) -> _T:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._made_at + SHARE_INTERVAL_S - loop.time())
        self._made_at, self._coming = loop.time(), None
        return self._make()


class Web:
    """The server. Thread: control for its methods; the requests are served on a thread of its own.

    observe: everything at one moment; beat: makes the I/O thread turn and returns how often it has
    turned. Both are called on that thread and raise StartError while the node does not serve.
    sockets: those it listens on, in the order of `[http] listen`.
    """

    def __init__(
        self, config: HttpTable, observe: Callable[[], Snapshot], beat: Callable[[], int]
    ) -> None:
        """Listen, so that a port in use is known at once. Raises StartError."""
        self._observe = observe
        self._beat = beat
        self._page = (
            importlib.resources.files("raida_uring.observe").joinpath("status.html").read_bytes()
        )
        self._open: dict[asyncio.WriteTransport, None] = {}  # oldest first
        self._names = frozenset(config.hosts)
        self._status = _Shared(
            lambda: json.dumps(for_page(self._observe()), separators=(",", ":")).encode()
        )
        self._exposition = _Shared(lambda: prometheus.exposition(self._observe()))
        self._seen = _Shared(self._observe)
        self._connections: set[asyncio.Task[None]] = set()
        self.sockets = _listen(config)
        with contextlib.ExitStack() as undone:
            for listening in self.sockets:
                undone.enter_context(listening)
            self._loop = _make_loop()
            undone.pop_all()
        self._reserve = Reserve()
        self._stopping = asyncio.Event()
        self._thread = Vital(target=self._run, name="http", daemon=True)
        self._paths: Mapping[str, Callable[[], Awaitable[_Answer]]] = {
            "/": self._status_page,
            "/status.json": self._status_json,
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
        }

    @property
    def urls(self) -> list[str]:
        """Of the status page, for each address."""
        places = (listening.getsockname()[:2] for listening in self.sockets)
        return [f"http://{format_endpoint(*place)}/" for place in places]

    @property
    def url(self) -> str:
        """The first of them."""
        return self.urls[0]

    def start(self) -> None:
        """Serve. Raises RuntimeError when there may be no further thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and end the thread. Once."""
        if self._thread.ident is not None:
            with contextlib.suppress(RuntimeError):  # the thread has died, and closed its loop
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        else:
            self._loop.close()
        for listening in self.sockets:
            listening.close()
        self._reserve.close()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())  # what is open then is cancelled by the runner

    async def _serve(self) -> None:
        accepting = [asyncio.ensure_future(self._accept(each)) for each in self.sockets]
        await self._stopping.wait()
        for one in accepting:
            one.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        """asyncio's own server would log each refusal and rest for a second."""
        loop = asyncio.get_running_loop()
        while True:
            self._reserve.fill()
            try:
                channel, _ = await loop.sock_accept(listening)
            except OSError:
                try:
                    channel = self._reserve.accept(listening)
                except OSError:
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                channel.setblocking(False)
            try:
                reader, writer = await asyncio.open_connection(sock=channel, limit=HEAD_BYTES_MAX)
            except OSError:
                channel.close()
                continue
            connected = asyncio.ensure_future(self._connected(reader, writer))
            self._connections.add(connected)  # asyncio keeps weak references only
            connected.add_done_callback(self._connections.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        if len(self._open) >= CONNECTIONS_MAX:
            # An exchange takes milliseconds: the oldest connection is most likely idle, and must
            # not keep a health probe out.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[transport] = None
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, EOFError, asyncio.CancelledError):
            pass  # a slow or vanished peer, or the end of the node
        finally:
            self._open.pop(transport, None)
            transport.abort()
            self._loop.call_soon(self._reserve.fill)  # once it is closed

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head_only = False
        try:
            request = _parse(await _read_head(reader))
            head_only = request.method == "HEAD"
            answer = await self._answer(request)
        except asyncio.LimitOverrunError:
            answer = _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long")
        except ValueError as error:
            answer = _refusal(HTTPStatus.BAD_REQUEST, str(error))
        writer.transport.set_write_buffer_limits(high=0)  # drain() means: the kernel has it all
        writer.write(_format(answer, head_only=head_only))
        await writer.drain()
        writer.write_eof()
        # Closing with bytes unread resets the connection, and the peer may lose the answer.
        while await reader.read(HEAD_BYTES_MAX):
            pass

    async def _answer(self, request: _Request) -> _Answer:
        """Raises ValueError: it is no request after all."""
        serve = self._paths.get(request.path)
        if serve is None:
            return _refusal(HTTPStatus.NOT_FOUND, "there are " + " ".join(self._paths))
        if request.method not in ("GET", "HEAD"):
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only")
        if request.host is None and request.version != "HTTP/1.0":
            raise ValueError("HTTP/1.1 needs the header field Host")
        if request.host is not None and not _may_be_asked_by(request.host, self._names):
            return _refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this node does not know itself by that name (Host): ask by an IP address or as "
                "localhost, or add the name to [http] hosts",
            )
        try:
            return await serve()
        except StartError as error:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Exception:
            events.HTTP_FAULT.log(path=request.path, exc_info=True)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the node, see its log")

    # -- what there is -----------------------------------------------------------------------------

    async def _status_page(self) -> _Answer:
        return _Answer(HTTPStatus.OK, self._page, "text/html; charset=utf-8")

    async def _status_json(self) -> _Answer:
        return _Answer(HTTPStatus.OK, await self._status.get(), "application/json")

    async def _metrics(self) -> _Answer:
        return _Answer(HTTPStatus.OK, await self._exposition.get(), _EXPOSITION)

    async def _health(self) -> _Answer:
        if not await self._turns():
            return _refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the I/O thread has not turned for {BEAT_TIMEOUT_S:.0f} s",
            )
        return _Answer(HTTPStatus.OK, b"ok\n")

    async def _readiness(self) -> _Answer:
        reasons = unready(await self._seen.get())
        if not reasons and not await self._turns():
            reasons = ["the I/O thread does not turn"]
        if reasons:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons))
        return _Answer(HTTPStatus.OK, b"ready\n")

    async def _turns(self) -> bool:
        """Whether the I/O thread begins a lap when it is woken."""
        before = self._beat()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BEAT_TIMEOUT_S
        while self._beat() == before:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(BEAT_LOOK_S)
        return True


def _listen(config: HttpTable) -> list[socket.socket]:
    """One socket for each address; port 0 takes the number that the first one gets for all of them.
    Raises StartError that names the setting."""
    done: list[socket.socket] = []
    port = config.port
    try:
        for host in config.listen:
            done.append(_listen_on(host, port))
            port = done[-1].getsockname()[1]
    except BaseException:
        for listening in done:
            listening.close()
        raise
    return done


def _listen_on(host: str, port: int) -> socket.socket:
    """Raises StartError that names the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        place = bind_address(host, port)
        listening = socket.create_server(place, family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        unnamed = isinstance(error, socket.gaierror)
        reason = "no interface of that name" if unnamed else os.strerror(error.errno or 0)
        raise StartError(
            f"[http] listen = {host}, port = {port}: cannot listen there: "
            f"{reason}; choose another, or [http] enabled = false"
        ) from error
    listening.setblocking(False)
    return listening


def _make_loop() -> asyncio.AbstractEventLoop:
    """Raises StartError without the descriptors for it: asyncio's would leave half a loop behind,
    and that a traceback in the log."""
    try:
        for one in (select.epoll(), *socket.socketpair()):
            one.close()
        return asyncio.new_event_loop()
    except OSError as error:
        raise StartError(f"[http] cannot be served: {error.strerror}") from error


# --- Requests -----------------------------------------------------------------------------------


async def _read_head(reader: asyncio.StreamReader) -> list[str]:
    """The lines of a request up to its empty one, those before it left out; each ends with LF, and
    mostly with CR LF. Raises LimitOverrunError when they are too long, ValueError when they end
    early, EOFError when there are none."""
    lines: list[str] = []
    size = 0
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            if size or error.partial:
                raise ValueError("the request does not end") from None
            raise
        size += len(line)
        if size > HEAD_BYTES_MAX:
            raise asyncio.LimitOverrunError("too long", size)
        text = line.decode("latin-1").removesuffix("\n").removesuffix("\r")
        if text:
            lines.append(text)
        elif lines:
            return lines


def _parse(lines: Sequence[str]) -> _Request:
    """Raises ValueError. No header field but Host has a say here."""
    match lines[0].split():
        case [method, target, version] if method.isalpha() and re.fullmatch(
            r"HTTP/1\.[0-9]", version
        ):
            pass
        case _:
            raise ValueError("not a request of HTTP/1.0 or 1.1")
    hosts = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("a header field is not written NAME: VALUE")
        if name.lower() == "host":
            hosts.append(value.strip())
    if len(hosts) > 1:
        raise ValueError("there is more than one header field Host")
    host = hosts[0] if hosts else None
    absolute = re.fullmatch(r"https?://([^/?#@]+)([/?][^#]*)?", target, re.IGNORECASE)
    if absolute is not None:
        behind = absolute[2] or ""
        target = behind if behind.startswith("/") else f"/{behind}"
        if host is not None or version == "HTTP/1.0":
            host = absolute[1]  # it goes before the field, which HTTP/1.1 needs all the same
    elif not target.startswith("/") and target != "*":
        raise ValueError("the target is neither a path nor an address with http://")
    return _Request(method, unquote(target.partition("?")[0]), host, version)


def _may_be_asked_by(host: str, names: frozenset[str]) -> bool:
    """Whether a browser that asks for `host`, perhaps with a port, shows a page of ours.

    Any IP address will do, and a name without a dot: a stranger's page has no such name. Raises
    ValueError: it is no host.
    """
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]\s]*)(?::[0-9]*)?", host)
    if match is None:
        raise ValueError("Host is not HOST or HOST:PORT")
    name = match[1].lower().removesuffix(".")
    if name.startswith("["):
        ipaddress.IPv6Address(unquote(name[1:-1]))
        return True
    if "." not in name or name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _format(answer: _Answer, *, head_only: bool) -> bytes:
    refused = answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    allow = "Allow: GET, HEAD\r\n" if refused else ""
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.kind}\r\nContent-Length: {len(answer.body)}\r\n"
        f"{allow}{_HEADERS}\r\n"
    )
    return head.encode() + (b"" if head_only else answer.body)
