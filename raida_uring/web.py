"""The HTTP side: status page, metrics, health and readiness, for people and for their monitoring.

One thread of its own runs an asyncio loop. What strangers can take from it is bounded: so many
connections, so many bytes of a request, so long from connect to close. Every answer closes its
connection. GET and HEAD only, no input but the path, nothing changes the node.

Built on asyncio rather than http.server: there a peer that sends a byte now and then holds a thread
for as long as it likes, since time-outs are per read.
"""

import asyncio
import contextlib
import importlib.resources
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from raida_uring import metrics, sockets
from raida_uring.config import Http
from raida_uring.errors import StartError
from raida_uring.log import event
from raida_uring.threads import Vital

CONNECTIONS_MAX: Final = 32  # a further one takes the place of the oldest
HEAD_BYTES_MAX: Final = 8192  # of a request; a browser sends some 500
EXCHANGE_TIMEOUT_S: Final = 5.0  # from connect to close
BEAT_TIMEOUT_S: Final = 1.0  # for the I/O thread to turn; it never works that long at a time
BEAT_LOOK_S: Final = 0.002

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

logger = logging.getLogger("raida_uring.web")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = _TEXT
    allow: bool = False  # name the methods there are


def _refusal(status: HTTPStatus, why: str, *, allow: bool = False) -> _Answer:
    return _Answer(status, f"{why}\n".encode(), allow=allow)


class Web:
    """The server. Thread: control for its methods; the requests are served on a thread of its own.

    observe: everything at one moment; beat: makes the I/O thread turn and returns how often it has
    turned. Both are called on that thread and raise StartError while the node does not serve.
    """

    def __init__(
        self, config: Http, observe: Callable[[], metrics.Observation], beat: Callable[[], int]
    ) -> None:
        """Listen, so that a port in use is known at once. Raises StartError."""
        self._observe = observe
        self._beat = beat
        self._page = importlib.resources.files("raida_uring").joinpath("status.html").read_bytes()
        self._open: dict[asyncio.WriteTransport, None] = {}  # oldest first
        self._socket = _listen(config)
        self._loop = asyncio.new_event_loop()
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
    def url(self) -> str:
        """Of the status page."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

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
        self._socket.close()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())  # what is open then is cancelled by the runner

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._connected, sock=self._socket, limit=HEAD_BYTES_MAX
        )
        await self._stopping.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        if len(self._open) >= CONNECTIONS_MAX:
            # An exchange takes milliseconds: who has been here longest only holds a place, and must
            # not keep a probe of our health from it.
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

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head_only = False
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = _parse(head)
            head_only = method == "HEAD"
            answer = await self._answer(method, path)
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

    async def _answer(self, method: str, path: str) -> _Answer:
        serve = self._paths.get(path)
        if serve is None:
            return _refusal(HTTPStatus.NOT_FOUND, "there are " + " ".join(self._paths))
        if method not in ("GET", "HEAD"):
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only", allow=True)
        try:
            return await serve()
        except StartError as error:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Exception:
            logger.exception(
                "the answer to %s could not be made", path, extra=event("http_fault", path=path)
            )
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of the node, see its log")

    # -- what there is -----------------------------------------------------------------------------

    async def _status_page(self) -> _Answer:
        return _Answer(HTTPStatus.OK, self._page, "text/html; charset=utf-8")

    async def _status_json(self) -> _Answer:
        body = json.dumps(metrics.status(self._observe()), separators=(",", ":")).encode()
        return _Answer(HTTPStatus.OK, body, "application/json")

    async def _metrics(self) -> _Answer:
        return _Answer(HTTPStatus.OK, metrics.exposition(self._observe()), _EXPOSITION)

    async def _health(self) -> _Answer:
        if not await self._turns():
            return _refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the I/O thread has not turned for {BEAT_TIMEOUT_S:.0f} s",
            )
        return _Answer(HTTPStatus.OK, b"ok\n")

    async def _readiness(self) -> _Answer:
        reasons = self._observe().unready()
        if not reasons and not await self._turns():
            reasons = ["the I/O thread does not turn"]
        if reasons:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons))
        return _Answer(HTTPStatus.OK, b"ready\n")

    async def _turns(self) -> bool:
        """Whether the I/O thread comes round when it is woken."""
        before = self._beat()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BEAT_TIMEOUT_S
        while self._beat() == before:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(BEAT_LOOK_S)
        return True


def _listen(config: Http) -> socket.socket:
    """Raises StartError that names the setting."""
    family = socket.AF_INET6 if ":" in config.listen else socket.AF_INET
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(sockets.address_of(config.listen, config.port))
            listening.listen(CONNECTIONS_MAX)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        unnamed = isinstance(error, socket.gaierror)
        reason = "no interface of that name" if unnamed else os.strerror(error.errno or 0)
        raise StartError(
            f"[http] listen = {config.listen}, port = {config.port}: cannot listen there: "
            f"{reason}; choose another, or [http] enabled = false"
        ) from error
    listening.setblocking(False)
    return listening


def _parse(head: bytes) -> tuple[str, str]:
    """Method and path of a request. Raises ValueError. Header fields have no say here."""
    line = head.split(b"\r\n", 1)[0].decode("latin-1")
    match line.split(" "):
        case [method, target, "HTTP/1.0" | "HTTP/1.1"] if method.isalpha() and target[:1] == "/":
            return method, target.partition("?")[0]
    raise ValueError("not a request of HTTP/1.0 or 1.1")


def _format(answer: _Answer, *, head_only: bool) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if answer.allow else ""
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.kind}\r\nContent-Length: {len(answer.body)}\r\n"
        f"{allow}{_HEADERS}\r\n"
    )
    return head.encode() + (b"" if head_only else answer.body)
