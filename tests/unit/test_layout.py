"""The wire's layout is defined once in C and once in Python; no other file has its numbers."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from raida_uring.ffi import native, native_base, native_store, native_worker
from raida_uring.protocol import Status, layout

ROOT = Path(__file__).parents[2]
PRODUCT = ROOT / "raida_uring"
HEADER = PRODUCT / "ffi" / "layout.h"

# What a message or a part of one is called where it is read or written.
_MESSAGES = "bytes|header|request|reply|body|out|vote|want|sent|packet|datagram"
C_OFFSET = re.compile(rf"(?<!_t )(?<![.\w])(?:{_MESSAGES})(?: \+ |\[)(?:0x)?\d")
PYTHON_OFFSET = re.compile(
    r"(?<![.\w])(?:header|request|reply|prefix|whole|nonce|body)\[(?:-?\d+(?: ?:|\])|: ?-?\d)"
)
COIN_STRUCT = re.compile(r"Struct\(\">bI")
TABLES = ("META", "PAGES", "REMAINS", "LEAVES")

RECORD_FIELDS = (
    *("payload_at", "payload_size", "command", "kind"),
    *("encryption", "shard", "transport", "body_size"),
)

# C files that spell messages out: tests, so that a wrong name cannot confirm itself, and the
# benchmark's peers, which share no code with the node. This set only shrinks.
SPELLED_OUT = {
    "tests/native/fuzz_framing.c",
    "tests/native/test_header.c",
    "tests/native/test_roots.c",
    "tests/native/test_udp.c",
    "tools/bench/peer.h",
}


def in_python() -> dict[str, int]:
    return {name: value for name, value in vars(layout).items() if type(value) is int}


def in_c() -> dict[str, int]:
    """As the compiler has them, by the names in the header."""
    names = re.findall(r"^    RU_(\w+) = ", HEADER.read_text(encoding="utf-8"), re.MULTILINE)
    lib: Any = native._lib
    return {name: getattr(lib, f"RU_{name}") for name in names}


def test_c_and_python_have_the_same_layout() -> None:
    assert len(in_c()) > 80
    assert in_python() == in_c()


def test_names_say_what_they_count() -> None:
    units = re.compile(r"_(AT|SIZE|COUNT|MIN|MAX|BYTE|PEEK|SMALL|LARGE|VERSION|RECORDS_COUNT)$")
    assert [name for name in in_python() if not units.search(name)] == []


def test_structs_have_the_sizes_of_what_they_read() -> None:
    assert layout.REQUEST_FRONT.size == layout.REQUEST_IGNORED_AT
    rest = layout.HEADER_SMALL - layout.REQUEST_ENCRYPTION_AT
    assert layout.REQUEST_PLAIN_REST.size == rest
    assert layout.COIN_NAME.size == layout.COIN_NAME_SIZE
    assert layout.TERMINATOR == b">>"


def test_the_store_keeps_what_the_wire_carries() -> None:
    assert native_store.PAGE_SIZE == layout.PAGE_SIZE
    assert native_store.PAGE_RECORDS == layout.PAGE_RECORDS_COUNT
    assert native_store.DENOMINATIONS == layout.DENOMINATIONS_COUNT
    assert native_store._COIN_SIZE == layout.COIN_NAME_SIZE


def test_the_store_numbers_tables_flags_and_states_as_c_does() -> None:
    lib: Any = native_store._lib
    named = {
        **{f"TABLE_{name}": f"RU_TABLE_{name}" for name in TABLES},
        **{f"BASE_{name}": f"RU_BASE_{name}" for name in ("CREATE", "READ_ONLY")},
        **{name: f"RU_COIN_{name}" for name in ("DIFFERS", "EQUAL", "UNREADABLE")},
    }
    known = {**vars(native_store), **vars(native_base)}
    assert {name: known[name] for name in named} == {
        name: getattr(lib, c_name) for name, c_name in named.items()
    }
    assert len(TABLES) == native_base.TABLES


@pytest.mark.parametrize(("header", "start"), [("memory.h", "PAGE_"), ("journal.h", "JOURNAL_")])
def test_the_store_numbers_what_c_keeps_to_itself_as_c_does(header: str, start: str) -> None:
    """States of pages, faults of the journal: of headers that Python does not read."""
    text = (PRODUCT / "ffi" / "coins" / header).read_text(encoding="utf-8")
    told = dict(re.findall(rf"RU_({start}\w+) = (-?\d+)", text))
    known = {name: int(told[name]) for name in vars(native_store) if name in told}
    assert len(known) >= 3
    assert known == {name: getattr(native_store, name) for name in known}


def test_records_are_unpacked_as_c_lays_them_out() -> None:
    ffi: Any = native._ffi
    fields = {name: 2 + at for at, (name, _) in enumerate(ffi.typeof("struct ru_record").fields)}
    del fields["spare"]
    raw = bytes(ffi.buffer(ffi.new("struct ru_record *", fields)))
    unpacked = struct.unpack(native_worker.RECORD_FORMAT, raw)
    assert unpacked == tuple(fields[name] for name in RECORD_FIELDS)


def test_statuses_of_the_data_plane_are_listed() -> None:
    text = (PRODUCT / "ffi" / "wire" / "header.h").read_text(encoding="utf-8")
    told = {int(number) for number in re.findall(r"RU_STATUS_\w+ = (\d+)", text)}
    assert len(told) > 15
    assert told <= {int(status) for status in Status}


def found(pattern: re.Pattern[str], *suffixes: str, under: tuple[str, ...]) -> dict[str, list[str]]:
    """Lines with a match, by file."""
    lines: dict[str, list[str]] = {}
    for folder in under:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in suffixes or path.name in ("_native.c", "_loadgen.c"):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if pattern.search(line):
                    name = path.relative_to(ROOT).as_posix()
                    lines.setdefault(name, []).append(f"{number}: {line.strip()}")
    return lines


def test_the_measure_finds_offsets() -> None:
    for line in ("if (bytes[16] <= 2)", "memcpy(out + 24, x, 5);", "return header[0x10];"):
        assert C_OFFSET.search(line)
    for line in ("uint8_t bytes[16];", "own.bytes[6] = 1;", "out[RU_REPLY_STATUS_AT] = 1;"):
        assert not C_OFFSET.search(line)
    for line in ("header[16]", "reply[2:6]", "nonce[:5]", "body[-2:]"):
        assert PYTHON_OFFSET.search(line)
    for line in ("replies[0]", "header[: len(front)]", "header[layout.REPLY_STATUS_AT]"):
        assert not PYTHON_OFFSET.search(line)


def test_no_c_file_indexes_a_message_with_a_bare_number() -> None:
    strays = found(C_OFFSET, ".c", ".h", under=("raida_uring", "tests", "tools"))
    assert {name: lines for name, lines in strays.items() if name not in SPELLED_OUT} == {}
    assert strays.keys() >= SPELLED_OUT, "take files off the list that need it no longer"


def test_no_python_module_indexes_a_message_with_a_bare_number() -> None:
    assert found(PYTHON_OFFSET, ".py", under=("raida_uring",)) == {}


def test_a_coin_s_name_is_read_in_one_place() -> None:
    strays = found(COIN_STRUCT, ".py", under=("raida_uring",))
    assert strays.keys() == {"raida_uring/protocol/layout.py"}
