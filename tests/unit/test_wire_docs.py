"""docs/wire.md says what the code does: offsets and sizes, statuses, commands, an example."""

import re
from collections.abc import Iterator
from pathlib import Path

from raida_uring import handlers, protocol
from raida_uring.protocol import COMMANDS, Status, layout

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of every table with that heading line."""
    found = []
    lines = TEXT.splitlines()
    for start in (number for number, line in enumerate(lines) if line == heading):
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return found


def sections() -> dict[str, str]:
    """The text below the heading of each command."""
    parts = re.split(r"^#### (\d+/\d+ \w+)$", TEXT, flags=re.MULTILINE)
    return {
        head: re.split(r"^##", body, flags=re.MULTILINE)[0]
        for head, body in zip(parts[1::2], parts[2::2], strict=True)
    }


# --- Layout -----------------------------------------------------------------------------------


def test_every_offset_is_drawn_once() -> None:
    told = rows("| offset | bytes | content | name |")
    offsets = {name: value for name, value in vars(layout).items() if name.endswith("_AT")}
    assert sorted(name for *_, name in told) == sorted(offsets)
    assert {name: int(offset) for offset, _, _, name in told} == offsets


def test_every_size_is_listed_once() -> None:
    told = rows("| name | value | meaning |")
    sizes = {
        name: value
        for name, value in vars(layout).items()
        if type(value) is int and not name.endswith("_AT")
    }
    assert [name for name, *_ in told] == list(sizes)
    assert {name: int(value) for name, value, _ in told} == sizes


def test_fields_of_a_header_do_not_overlap() -> None:
    """Where a table has two fields at one offset, one is the beginning of the other."""
    for table in TEXT.split("| offset | bytes | content | name |\n|---|---|---|---|\n")[1:]:
        end = 0
        for line in table.splitlines():
            if not line.startswith("|"):
                break
            offset, size = (int(cell) for cell in line.split("|")[1:3])
            within = offset + size <= end
            assert offset >= end or within, line
            end = max(end, offset + size)


def test_the_example_is_what_the_client_sends() -> None:
    [example] = re.findall(r"^01 00 0e.*?^```", TEXT, re.MULTILINE | re.DOTALL)
    sent, answered = (
        "".join(line.partition("   ")[0].replace(" ", "") for line in part.splitlines())
        for part in example.removesuffix("```").split("\n\n")
    )
    challenge = bytes.fromhex("1d58f7bb84f8576f0897b319")
    made = protocol.build_request(0, 0, raida_id=14, echo=0x1122, challenge=challenge)
    assert made.hex() == sent
    reply = protocol.parse_reply(bytes.fromhex(answered.replace("t", "0")))
    assert (reply.status, reply.echo, reply.body) == (Status.SUCCESS, b"\x11\x22", b"")
    assert reply.challenge == challenge + protocol.crc32_challenge(challenge)


# --- Statuses ---------------------------------------------------------------------------------


def sent() -> set[int]:
    """The statuses that the node's own code answers with."""
    header = (ROOT / "raida_uring/ffi/wire/header.h").read_text(encoding="utf-8")
    found = {int(number) for number in re.findall(r"RU_STATUS_\w+ = (\d+)", header)} - {0}
    sources = [ROOT / "raida_uring/protocol/sealing.py"]
    for folder in ("handlers", "workers"):
        sources += (ROOT / "raida_uring" / folder).glob("*.py")
    for path in sources:
        names = re.findall(r"\bStatus\.([A-Z_]+)", path.read_text(encoding="utf-8"))
        found |= {int(Status[name]) for name in names}
    return found


def test_statuses_are_those_of_the_code() -> None:
    told = {int(number): name for number, name, _ in rows("| status | name | meaning |")}
    assert told == {number: Status(number).name for number in sorted(sent())}


def test_every_other_status_is_named() -> None:
    [others] = re.findall(r"further numbers[^:]*:(.*?)\.\n\n", TEXT, re.DOTALL)
    told = {name: int(number) for number, name in re.findall(r"(\d+)\s+`([A-Z_]+)`", others)}
    expected = {name: int(status) for name, status in Status.__members__.items()}
    listed = {name for _, name, _ in rows("| status | name | meaning |")}
    assert told == {name: number for name, number in expected.items() if name not in listed}


# --- Commands ---------------------------------------------------------------------------------


def specified() -> dict[str, protocol.CommandName]:
    return {
        f"{named.group:d}/{named.code}": named for named in COMMANDS.values() if named.specified
    }


def test_the_table_of_commands_is_that_of_the_handlers() -> None:
    yes = {"no": False, "yes": True}
    told = {
        number: (name, yes[needs_body], yes[public], yes[needs_store])
        for number, name, needs_body, public, needs_store in rows(
            "| command | name | needs a body | public | needs a store |"
        )
    }
    registered = {f"{one.group}/{one.code}": one for one in builtin(store=True)}
    assert told == {
        number: (named.name, registered[number].needs_body, named.public, named.needs_store)
        for number, named in specified().items()
    }


def builtin(*, store: bool) -> Iterator[handlers.Command]:
    return (one for one in handlers.load((), store=store) if one.source == "built in")


def test_the_list_of_commands_is_that_of_the_handlers() -> None:
    for store in (True, False):
        public = {f"{one.group}/{one.code}": one.public for one in builtin(store=store)}
        assert public == {number: named.public for number, named in specified().items()}


def test_each_command_has_its_section() -> None:
    assert list(sections()) == [f"{number} {named.name}" for number, named in specified().items()]


def test_sections_tell_statuses_that_are_sent() -> None:
    for head, body in sections().items():
        told = re.findall(r"^\| [^|]+ \| (\d+)[^|]* \|$", body, re.MULTILINE)
        assert {int(number) for number in told} <= sent(), head
        assert told or "250" in body, head
