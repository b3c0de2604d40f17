"""asyncio responder, on uvloop with --uvloop: a yardstick for the node.

Usage: peer_asyncio.py PORT RAIDA_ID [--uvloop]. Answers echo, version and the integrity vote of a
node without roots inline in the protocol callbacks, over UDP and TCP on 127.0.0.1, with the same
checks as peer.h; one request per TCP connection. Prints `ready`, ends on SIGTERM.
"""

import argparse
import asyncio
import signal
import zlib
from typing import cast

REQUEST_BYTES_MAX = 1440
VOTE_BYTES = 497
ZERO_ROOTS = bytes(480)
COIN_ID = b"\x00\x06"
KNOWN_COMMANDS = (b"\x00\x00" + COIN_ID, b"\x00\x01" + COIN_ID)
NO_CHALLENGE = bytes(16)
VERSION_REPLY = b"20250323>>"


class Responder:
    """Bytes in, bytes out. None: drop the datagram, or wait for more of the stream.

    The checks of a good type 0 request stand in one condition, as a server built for speed would
    have them; only a request that fails it goes through the decision list to find its status.
    """

    def __init__(self, raida_id: int) -> None:
        self._raida_id = raida_id
        self._front = bytes((1, 0, raida_id))
        self._success = bytes((raida_id, 0, 250, 0, 0, 1))
        self._sizes = (bytes(8), len(VERSION_REPLY).to_bytes(4, "big") + bytes(4))
        self._payloads = (b"", VERSION_REPLY)

    def datagram(self, data: bytes) -> bytes | None:
        count = len(data)
        if count == VOTE_BYTES and data[0] == 7:
            return (b"\x01" if data[1:481] == ZERO_ROOTS else b"\x00") + data[481:]
        if count < 17 or count < (32 if data[16] <= 2 else 48):
            return None
        status = self._header_status(data)
        if status != 250:
            return self._reply(data, status)
        if count < 32 + (data[22] << 8 | data[23]):
            return self._reply(data, 16)
        return self._command(data)

    def stream(self, data: bytes) -> bytes | None:
        count = len(data)
        if count < 17 or count < (32 if data[16] <= 2 else 48):
            return None
        status = self._header_status(data)
        if status != 250:
            return self._reply(data, status)
        needed = 32 + (data[22] << 8 | data[23])
        if needed > REQUEST_BYTES_MAX:
            return self._reply(data, 16)
        return self._command(data) if count >= needed else None

    def _header_status(self, data: bytes) -> int:
        if (
            data[:3] == self._front
            and data[3] <= 3
            and data[4:8] in KNOWN_COMMANDS
            and data[16] == 0
        ):
            return 250
        if data[0] != 1:
            return 255
        if data[1] != 0:
            return 2
        if data[2] != self._raida_id:
            return 3
        if data[4] > 15:
            return 5
        if data[3] > 3:
            return 4
        if data[4] != 0 or data[5] > 1:
            return 6
        if data[6:8] != COIN_ID:
            return 7
        return {1: 34, 2: 34, 4: 25, 5: 25}.get(data[16], 27)

    def _command(self, data: bytes) -> bytes:
        body_bytes = data[22] << 8 | data[23]
        challenge = NO_CHALLENGE
        if body_bytes > 0:
            if body_bytes < 2:
                return self._reply(data, 16)
            if data[30 + body_bytes : 32 + body_bytes] != b">>":
                return self._reply(data, 33)
            if body_bytes < 18:
                return self._reply(data, 16)
            challenge = data[32:48]
            if zlib.crc32(challenge[:12]) != int.from_bytes(challenge[12:], "big"):
                return self._reply(data, 37, challenge)
        command = data[5]
        return (
            self._success + data[30:32] + self._sizes[command] + challenge + self._payloads[command]
        )

    def _reply(self, data: bytes, status: int, challenge: bytes = NO_CHALLENGE) -> bytes:
        if status in (25, 27):
            key_coin, echo = (data[19:24], data[46:48]) if status == 25 else (bytes(5), bytes(2))
            front = bytes((self._raida_id, 0, status, data[4])) + bytes(12)
            return front + data[16:17] + key_coin + bytes(24) + echo
        checked = 7 <= status < 255
        return (
            bytes((self._raida_id, 0, status, data[4] if checked else 0, 0, 1))
            + (data[30:32] if checked and status != 7 else bytes(2))
            + bytes(8)
            + challenge
        )


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: asyncio's and uvloop's own classes do not derive from it.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._responder.datagram(data)
        if reply is not None:
            self._transport.sendto(reply, addr)


class Connection(asyncio.Protocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        reply = self._responder.stream(self._received)
        if reply is not None:
            self._transport.write(reply)
            self._transport.close()


async def serve(port: int, raida_id: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    responder = Responder(raida_id)
    address = ("127.0.0.1", port)
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Datagrams(responder), local_addr=address
    )
    server = await loop.create_server(lambda: Connection(responder), *address, backlog=4096)
    print("ready", flush=True)
    await stop.wait()
    server.close()
    transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("raida_id", type=int)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    if arguments.uvloop:
        import uvloop

        uvloop.install()
    asyncio.run(serve(arguments.port, arguments.raida_id))


if __name__ == "__main__":
    main()
