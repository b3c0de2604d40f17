"""Requests with the fixture's ids filled in, and the parts of replies that tests compare.

Pure: no socket, no clock. Source: the wire specification; ids from wire.json's fixture.
"""

import hmac
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from raida_uring import protocol
from raida_uring.errors import ProtocolError
from raida_uring.protocol import layout

WIRE_JSON = Path(__file__).parent.parent / "wire" / "wire.json"

_recorded: dict[str, Any] = json.loads(WIRE_JSON.read_text())
FIXTURE: dict[str, Any] = _recorded["fixture"]["server"]
FIXTURE_ROOTS: dict[str, str] = _recorded["fixture"]["derived"]["merkle_roots"]
STORE: dict[str, Any] = _recorded["fixture"]["store"]
RAIDA_ID: int = FIXTURE["raida_id"]
COIN_ID: int = FIXTURE["coin_id"]
ADMIN_KEY = bytes.fromhex(FIXTURE["admin_key"])

ECHO_COMMAND = (0, 0)
VERSION_COMMAND = (0, 1)
SHOW_STATS_COMMAND = (0, 2)

KEY_COIN = bytes.fromhex("02000064f1")  # den, SN; no store in these tests, so any coin will do
SECOND_COIN = bytes.fromhex("fb00000a0b")

_serials = itertools.count(1)

Ranges = tuple[tuple[int, int], ...]  # (offset, length) in bytes


@dataclass(frozen=True, slots=True)
class Vector:
    """One recorded exchange; `response` is None where the reference server stays silent."""

    name: str
    category: str
    transport: str
    request: bytes
    response: bytes | None
    mask: Ranges
    when: str | None
    cipher_key: bytes | None = None  # where a fresh nonce makes every body another: its key
    plain: bytes | None = None  # ... and payload
    reference: bytes | None = None  # the reference server's answer, where ours differs on purpose
    group: str | None = None  # of vectors whose order counts
    capture: tuple[str, int, int] | None = None  # name, offset and length of reply bytes to keep
    patches: tuple[tuple[str, int], ...] = ()  # name of kept bytes, where they go in the request

    def patched(self, kept: dict[str, bytes]) -> bytes:
        """The request with what earlier replies had, if that was kept."""
        data = bytearray(self.request)
        for name, offset in self.patches:
            data[offset : offset + len(kept[name])] = kept[name]
        return bytes(data)

    def accepts(self, reply: bytes) -> bool:
        """Whether `reply` equals the recording outside the masked ranges.

        Where the recording has a payload instead of its encryption, whether it can be read.
        """
        if self.response is None:
            return False
        header = reply
        if self.cipher_key is not None and self.plain is not None:
            size = len(self.response)
            header, sealed, mac = reply[:size], *_parted(reply[size:])
            start = layout.REPLY_LARGE_NONCE_AT
            counter = modes.CTR(header[start : start + layout.COUNTER_SIZE])
            cipher = Cipher(algorithms.AES(self.cipher_key), counter).decryptor()
            if mac != hmac.digest(self.cipher_key, sealed, "sha256"):
                return False
            if cipher.update(sealed) != self.plain or not reply.endswith(layout.TERMINATOR):
                return False
        return masked(header, self.mask) == masked(self.response, self.mask)


def _parted(body: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and HMAC of a sealed body."""
    end = len(body) - layout.SEALED_BODY_MIN
    return body[:end], body[end : -layout.TERMINATOR_SIZE]


def load_vectors() -> list[Vector]:
    """Every vector of wire.json, in file order."""
    return [
        Vector(
            name=entry["name"],
            category=entry["category"],
            transport=entry["transport"],
            request=bytes.fromhex(entry["request_hex"]),
            response=None
            if entry["response_hex"] is None
            else bytes.fromhex(entry["response_hex"]),
            mask=tuple((offset, length) for offset, length in entry["mask"]),
            when=entry.get("when"),
            group=entry.get("group"),
            capture=_capture(entry.get("capture")),
            patches=tuple((one["name"], one["offset"]) for one in entry.get("patch", ())),
            cipher_key=_hex_or_none(entry.get("decrypt", {}).get("key_hex")),
            plain=_hex_or_none(entry.get("decrypt", {}).get("plain_hex")),
            reference=_hex_or_none(entry.get("reference_response_hex")),
        )
        for entry in _recorded["vectors"]
    ]


def _capture(entry: dict[str, Any] | None) -> tuple[str, int, int] | None:
    return None if entry is None else (entry["name"], entry["offset"], entry["length"])


def _hex_or_none(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def masked(data: bytes, ranges: Ranges) -> bytes:
    """`data` with the bytes of `ranges` set to zero; its length is unchanged."""
    copy = bytearray(data)
    for offset, length in ranges:
        end = min(offset + length, len(copy))
        copy[offset:end] = bytes(max(0, end - offset))
    return bytes(copy)


def request(
    command: tuple[int, int],
    payload: bytes = b"",
    *,
    body: bool = True,
    echo: int = 0x1122,
) -> bytes:
    """A type 0 request for (group, command); `body` False means no body at all (BL = 0).

    No two requests have the same challenge, so a reply shows which of them it answers.
    """
    group, code = command
    return protocol.build_request(
        group,
        code,
        payload,
        raida_id=RAIDA_ID,
        coin_id=COIN_ID,
        echo=echo,
        challenge=next(_serials).to_bytes(protocol.CHALLENGE_RANDOM_BYTES),
        body=body,
    )


def encrypted_request(encryption: int, command: tuple[int, int], body: bytes) -> bytes:
    """A request of type 1, 2, 4 or 5 with `body` unchanged (no cipher is applied).

    Layout of wire specification 2.3; the echo bytes are 7A 7B.
    """
    group, code = command
    start = bytes((1, 0, RAIDA_ID, 0, group, code)) + COIN_ID.to_bytes(2) + bytes(8)
    length = len(body).to_bytes(2)
    if encryption in (1, 2):
        header = bytes((encryption,)) + KEY_COIN + length + b"nonce!" + b"\x7a\x7b"
    else:
        nonce = SECOND_COIN + bytes(range(0x30, 0x41)) + b"\x7a\x7b"
        header = bytes((encryption,)) + length + KEY_COIN + nonce
    return start + header + body


def vote(nonce: bytes = b"nonce-of-16-byte") -> bytes:
    """An integrity vote with zero claims, with which a node without roots agrees."""
    return protocol.build_vote(nonce)


def vote_agreed(nonce: bytes = b"nonce-of-16-byte") -> bytes:
    """The reply to it: 17 bytes."""
    return b"\x01" + nonce


def status(reply: bytes) -> int:
    """The status byte, at the same offset in both header sizes."""
    return reply[layout.REPLY_STATUS_AT]


def challenge_of(request_bytes: bytes) -> bytes:
    """The 16 challenge bytes of a type 0 request with a body."""
    return request_bytes[layout.HEADER_SMALL :][: layout.CHALLENGE_SIZE]


def challenge_field(reply: bytes) -> bytes:
    """Those that a 32-byte reply header shows."""
    return reply[layout.REPLY_SMALL_CHALLENGE_AT : layout.HEADER_SMALL]


def answers(reply: bytes, request_bytes: bytes) -> bool:
    """Whether these are all bytes of a reply of status 250 to a type 0 request with a body."""
    try:
        parsed = protocol.parse_reply(reply)
    except ProtocolError:
        return False
    echo = protocol.parse_request_header(request_bytes).echo
    shown = parsed.challenge == challenge_of(request_bytes)
    return shown and (parsed.status, parsed.echo) == (protocol.Status.SUCCESS, echo)


def reply_payload(reply: bytes) -> bytes:
    """Payload behind a 32-byte reply header; fails unless size field and terminator are right."""
    return protocol.parse_reply(reply).payload


def steady(request_bytes: bytes, reply: bytes) -> bytes:
    """`reply` without what differs between two runs: execution time and random nonce bytes."""
    if len(reply) < layout.HEADER_SMALL:
        return reply
    encryption = request_bytes[layout.REQUEST_ENCRYPTION_AT]
    if protocol.reply_header_bytes(status(reply), encryption) == layout.HEADER_SMALL:
        return masked(reply, ((layout.REPLY_SMALL_TIME_AT, layout.REPLY_TIME_SIZE),))
    nonce = layout.REPLY_LARGE_NONCE_AT, layout.REPLY_NONCE_SIZE
    return masked(reply, ((layout.REPLY_LARGE_TIME_AT, layout.REPLY_TIME_SIZE), nonce))
