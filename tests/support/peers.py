"""Peers that are no nodes: each answers on a loopback port as a test says."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tests.support.net import DATAGRAM_BYTES_MAX, Endpoint


@contextmanager
def udp_peer(answers: Callable[[bytes], Iterable[bytes]]) -> Iterator[Endpoint]:
    """Answers each datagram with those that `answers` makes of it, in order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, source = peer.recvfrom(DATAGRAM_BYTES_MAX)
                if not data:
                    return
                for answer in answers(data):
                    peer.sendto(answer, source)

        with in_background(lambda _: serve()):
            try:
                yield peer.getsockname()
            finally:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                    end.sendto(b"", peer.getsockname())


@contextmanager
def tcp_peer(serve: Callable[[socket.socket], object]) -> Iterator[Endpoint]:
    """Calls serve(connection) for one connection after the other, and closes each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # shut down below
                    return
                with connection, contextlib.suppress(ConnectionError):
                    serve(connection)

        with in_background(lambda _: accept()):
            try:
                yield listener.getsockname()
            finally:
                listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def in_background(*tasks: Callable[[threading.Event], object]) -> Iterator[None]:
    """Runs each task on a thread of its own. At the end of the body, sets the event that each was
    given, and waits for them."""
    stop = threading.Event()
    threads = [threading.Thread(target=task, args=(stop,)) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
