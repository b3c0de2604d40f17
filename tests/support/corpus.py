"""Seed inputs of the framing fuzzer: recorded requests, and edges made by hand.

Pure but for `write()`. `python -m tests.support.corpus` writes them to tests/native/corpus/; a unit
test compares. An input is four bytes of settings and then what a peer sends: fuzz_framing.c.
What a fuzzer finds is kept beside them as `finding-<what it was>`, which nothing here touches.
"""

from pathlib import Path

from raida_uring.protocol import build_request
from tests.support.wire import (
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    encrypted_request,
    load_vectors,
    vote,
)

CORPUS = Path(__file__).parent.parent / "native" / "corpus"
FINDING = "finding-"

# What distinguishes the others to the data plane is their header, of which these have one each.
CATEGORIES = {
    "header",
    "body",
    "framing",
    "vote",
    "status",
    "encryption1",
    "encryption2",
    "encryption4",
    "encryption5",
}

PERSISTENT, SLOW_FULL, POOL_FULL, BLOCK_REPLIES = 1, 2, 4, 8
BODY_MAX_2048, BODY_MAX_300, BODY_MAX_18 = 1 << 4, 2 << 4, 3 << 4
FILLED_65535 = 15


def seed(stream: bytes, flags: int = PERSISTENT, draws: int = 7, fill: int = 0) -> bytes:
    """One input. `draws`: seed of the pieces; `fill`: code of how many bytes `>` follow."""
    return bytes((flags, draws, fill, 0x3E)) + stream


def plain(command: tuple[int, int], *, body: bool = False) -> bytes:
    """A request of type 0, the same every time."""
    return build_request(*command, raida_id=RAIDA_ID, coin_id=COIN_ID, body=body)


def announced(size: int, encryption: int = 0) -> bytes:
    """A header that announces a body of `size` bytes."""
    header = bytearray(
        plain(VERSION_COMMAND)
        if encryption == 0
        else encrypted_request(encryption, VERSION_COMMAND, b"")
    )
    at = 22 if encryption <= 2 else 17
    header[at : at + 2] = size.to_bytes(2)
    return bytes(header)


def edges() -> dict[str, bytes]:
    """By hand: sizes around every limit, cut and joined requests."""
    echo = plain(ECHO_COMMAND, body=True)
    bare = plain(ECHO_COMMAND)
    slow = plain(SHOW_STATS_COMMAND)
    found = {
        "nothing": seed(b""),
        "cut-before-type": seed(bare[:16]),
        "cut-at-type": seed(bare[:17]),
        "cut-before-end-of-header": seed(bare[:31]),
        "cut-large-header": seed(encrypted_request(4, VERSION_COMMAND, b"")[:47]),
        "two-in-one": seed(echo + bare),
        "second-where-one-is-served": seed(echo + bare, flags=0),
        "half-a-second": seed(echo + bare[:20]),
        "refused-then-more": seed(b"\2" + bare[1:] + echo),
        "slow-lane-full": seed(slow + bare, flags=PERSISTENT | SLOW_FULL),
        "pool-full": seed(slow, flags=POOL_FULL),
        "reply-in-block": seed(bare + announced(304), flags=PERSISTENT | BLOCK_REPLIES, fill=10),
        "vote": seed(vote()),
        "like-a-reply": seed(bytes((14, 0, 250, 0, 0, 1)) + bytes(26)),
        "over-2048": seed(announced(2049), flags=BODY_MAX_2048),
        "over-300": seed(announced(301), flags=BODY_MAX_300),
        "over-18": seed(announced(19), flags=BODY_MAX_18),
    }
    for code, size in enumerate((1, 17, 18, 255, 256, 257, 304, 2047, 2048, 2049, 65534, 65535), 4):
        for encryption in (0, 1, 4):
            stream = announced(size, encryption)
            found[f"body-{size}-type-{encryption}"] = seed(stream, draws=code, fill=code)
    found["body-65535-after-pipeline"] = seed(bare * 8 + announced(65535), fill=FILLED_65535)
    return found


def seeds() -> dict[str, bytes]:
    """File name -> input, all distinct."""
    recorded = {
        f"wire-{vector.name}": seed(vector.request)
        for vector in load_vectors()
        if vector.category in CATEGORIES
    }
    made = {f"edge-{name}": stream for name, stream in edges().items()}
    first_named = {stream: name for name, stream in reversed([*recorded.items(), *made.items()])}
    return {name: stream for stream, name in first_named.items()}


def write() -> None:
    """Make the directory hold these seeds, and findings as they are."""
    CORPUS.mkdir(exist_ok=True)
    for path in CORPUS.iterdir():
        if not path.name.startswith(FINDING):
            path.unlink()
    for name, stream in seeds().items():
        (CORPUS / name).write_bytes(stream)


if __name__ == "__main__":
    write()
