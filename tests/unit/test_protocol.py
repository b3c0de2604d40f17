"""The protocol package against the recorded exchanges of the reference server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raida_uring import protocol
from raida_uring.errors import ProtocolError
from raida_uring.protocol import Status

WIRE = json.loads((Path(__file__).parents[1] / "wire" / "wire.json").read_text())
RAIDA_ID: int = WIRE["fixture"]["server"]["raida_id"]


def is_vote(entry: dict[str, Any]) -> bool:
    request = bytes.fromhex(entry["request_hex"])
    return len(request) == protocol.VOTE_BYTES and request[0] == protocol.VOTE_FIRST_BYTE


ANSWERED = [
    entry for entry in WIRE["vectors"] if entry["response_hex"] is not None and not is_vote(entry)
]
VOTES = [entry for entry in WIRE["vectors"] if is_vote(entry)]


def test_there_are_vectors() -> None:
    assert len(ANSWERED) > 100
    assert len(VOTES) > 3


# --- Requests ---------------------------------------------------------------------------------


def rebuilt(request: bytes) -> bytes:
    """What build_request makes of the fields of a recorded type 0 request."""
    header = protocol.parse_request_header(request)
    body = request[protocol.HEADER_BYTES :]
    return protocol.build_request(
        header.group,
        header.command,
        body[protocol.CHALLENGE_BYTES : -2],
        raida_id=header.raida_id,
        coin_id=header.coin_id,
        echo=int.from_bytes(header.echo),
        shard=header.shard,
        challenge=body[:12] or bytes(12),
        body=header.body_bytes > 0,
    )


def test_built_requests_equal_the_recorded_ones() -> None:
    """Every recorded request that is whole, valid and unencrypted comes out the same."""
    compared = 0
    for entry in ANSWERED:
        request = bytes.fromhex(entry["request_hex"])
        response = bytes.fromhex(entry["response_hex"])
        well_formed = response[2] not in (255, 2, 16, 33, 37) and request[16] == 0
        header = protocol.parse_request_header(request)
        # Left out: requests recorded to show that ignored bytes and trailing ones do not matter.
        exact = len(request) == 32 + header.body_bytes
        if well_formed and exact and request[8:16] == b"\x01" + bytes(6) + b"\x01":
            if request[17:22] + request[24:30] != bytes(11):
                continue
            assert rebuilt(request) == request, entry["name"]
            compared += 1
    assert compared > 50


def test_worked_example_of_the_specification() -> None:
    made = protocol.build_request(
        0,
        0,
        raida_id=14,
        echo=0x1122,
        challenge=bytes.fromhex("1d58f7bb84f8576f0897b319"),
    )
    assert made.hex() == (
        "01000e00000000060100000000000001"
        "00000000000000120000000000001122"
        "1d58f7bb84f8576f0897b3190fdc2bd03e3e"
    )


@pytest.mark.parametrize(
    ("challenge", "crc"),
    [(bytes(12), "7bd5c66f"), (b"\xff" * 12, "bb99ff8a"), (b"Hello World!", "1c291ca3")],
)
def test_crc_check_values(challenge: bytes, crc: str) -> None:
    assert protocol.crc32_challenge(challenge).hex() == crc


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=200),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 255),
)
def test_what_is_built_parses_to_the_same(
    group: int, command: int, payload: bytes, raida_id: int, coin_id: int, echo: int, shard: int
) -> None:
    made = protocol.build_request(
        group, command, payload, raida_id=raida_id, coin_id=coin_id, echo=echo, shard=shard
    )
    header = protocol.parse_request_header(made)
    assert (header.group, header.command, header.raida_id) == (group, command, raida_id)
    assert (header.coin_id, header.shard) == (coin_id, shard)
    assert int.from_bytes(header.echo) == echo
    assert header.encryption == 0
    assert header.body_bytes == len(payload) + protocol.BODY_OVERHEAD_BYTES
    assert len(made) == header.size_bytes + header.body_bytes


def test_fields_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="header field"):
        protocol.build_request(256, 0, raida_id=0)
    with pytest.raises(ValueError, match="header field"):
        protocol.build_request(0, 0, raida_id=0, echo=65536)
    with pytest.raises(ValueError, match="challenge has 11 bytes"):
        protocol.build_request(0, 0, raida_id=0, challenge=bytes(11))
    with pytest.raises(ValueError, match="no payload"):
        protocol.build_request(0, 0, b"x", raida_id=0, body=False)


def test_the_longest_body() -> None:
    longest = protocol.BODY_BYTES_MAX - protocol.BODY_OVERHEAD_BYTES
    made = protocol.build_request(0, 0, bytes(longest), raida_id=0)
    assert protocol.parse_request_header(made).body_bytes == protocol.BODY_BYTES_MAX
    with pytest.raises(ValueError, match="body has 65536 bytes"):
        protocol.build_request(0, 0, bytes(longest + 1), raida_id=0)


@pytest.mark.parametrize(
    ("encryption", "size"),
    [(0, 32), (1, 32), (2, 32), (3, 48), (4, 48), (5, 48), (6, 48), (255, 48)],
)
def test_header_is_complete_at_its_size_and_not_before(encryption: int, size: int) -> None:
    data = bytes(16) + bytes((encryption,)) + bytes(31)
    assert protocol.parse_request_header(data[:size]).size_bytes == size
    for length in (0, 16, 17, size - 1):
        with pytest.raises(ProtocolError) as caught:
            protocol.parse_request_header(data[:length])
        assert caught.value.status == Status.INVALID_PACKET_LENGTH


def test_fields_of_each_encryption_type() -> None:
    start = bytes.fromhex("01000e00000000060100000000000001")
    rest = bytes(range(0x11, 0x30))

    one = protocol.parse_request_header(start + b"\x01" + rest)
    assert one.key_coin == (0x11, 0x12131415)
    assert one.body_bytes == 0x1617
    assert one.nonce == bytes(range(0x18, 0x20))
    assert one.echo == b"\x1e\x1f"
    assert one.locker_prefix is None

    two = protocol.parse_request_header(start + b"\x02" + rest)
    assert two.locker_prefix == bytes(range(0x11, 0x16))
    assert two.key_coin is None

    four = protocol.parse_request_header(start + b"\x04" + rest)
    assert four.body_bytes == 0x1112
    assert four.key_coin == (0x13, 0x14151617)
    assert four.nonce == bytes(range(0x18, 0x30))
    assert four.echo == b"\x2e\x2f"
    assert four.second_key_coin is None

    five = protocol.parse_request_header(start + b"\x05" + rest)
    assert five.second_key_coin == (0x18, 0x191A1B1C)


def test_denominations_are_signed() -> None:
    header = protocol.parse_request_header(bytes(16) + b"\x01\xf8" + bytes(14))
    assert header.key_coin == (-8, 0)


# --- Replies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ANSWERED, ids=[entry["name"] for entry in ANSWERED])
def test_recorded_replies_parse(entry: dict[str, Any]) -> None:
    encryption = bytes.fromhex(entry["request_hex"]).ljust(17, b"\0")[16]
    data = bytes.fromhex(entry["response_hex"])
    if "decrypt" in entry:  # the recording holds the header alone
        assert protocol.reply_bytes(data, encryption) >= len(data)
        return
    reply = protocol.parse_reply(data, encryption)
    assert reply.raida_id == RAIDA_ID
    assert reply.status == data[2]
    assert protocol.status_name(reply.status) != "UNLISTED"
    assert reply.header + reply.body == data


def test_fields_of_a_short_header() -> None:
    data = bytes.fromhex(
        "0e00fa00000111220000000a00000029107f760b40d8b17a87a26a9fe5805ba132303235303332333e3e"
    )
    reply = protocol.parse_reply(data)
    assert reply.status == Status.SUCCESS
    assert reply.server_time_us == 0x29
    assert reply.echo == b"\x11\x22"
    assert reply.challenge.hex() == "107f760b40d8b17a87a26a9fe5805ba1"
    assert reply.payload == b"20250323"


def test_fields_of_a_long_header() -> None:
    data = bytes.fromhex(
        "0e001b0000000009000000000000000003000000000000007639da1da2d5d62bf6e9153edcc339a0a672ab4f24e31234"
    )
    reply = protocol.parse_reply(data, encryption=3)
    assert reply.status == Status.INVALID_ENCRYPTION_CODE
    assert reply.server_time_us == 9
    assert reply.echo == b"\x12\x34"
    assert reply.payload == b""


def test_malformed_replies_are_refused() -> None:
    whole = (
        bytes.fromhex("0e00fa0000010000000000020000000000000000000000000000000000000000") + b">>"
    )
    assert protocol.parse_reply(whole).payload == b""
    for broken in (whole[:-1], whole + b"\0", whole[:11], b""):
        with pytest.raises(ProtocolError):
            protocol.parse_reply(broken)
    with pytest.raises(ProtocolError, match="terminator"):
        protocol.parse_reply(whole[:-2] + b">\0")


# --- Votes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", VOTES, ids=[entry["name"] for entry in VOTES])
def test_recorded_votes(entry: dict[str, Any]) -> None:
    request = bytes.fromhex(entry["request_hex"])
    reply = protocol.parse_vote_reply(bytes.fromhex(entry["response_hex"]))
    assert protocol.build_vote(request[481:], request[1:481]) == request
    assert reply.nonce == request[481:]


def test_wrong_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="nonce has 15 bytes"):
        protocol.build_vote(bytes(15))
    with pytest.raises(ProtocolError):
        protocol.parse_vote_reply(bytes(16))
    with pytest.raises(ProtocolError, match="says 2"):
        protocol.parse_vote_reply(b"\x02" + bytes(16))


# --- Names ------------------------------------------------------------------------------------


def test_status_list_is_complete() -> None:
    assert len(Status) == 83  # of the wire specification, 5.1; the alias BLOCKCHAIN not counted
    assert Status["BLOCKCHAIN"].name == "INVALID_HMAC"
    assert protocol.status_name(250) == "SUCCESS"
    assert protocol.status_name(251) == "UNLISTED"


def test_command_names() -> None:
    assert protocol.command_name(0, 0) == "status/echo"
    assert protocol.command_name(14, 5) == "integrity/get_all_roots"
    assert protocol.command_name(5, 200) == "5/200"
    specified = [named for named in protocol.COMMANDS.values() if named.specified]
    assert len(specified) == 15
    assert all(re.fullmatch("[a-z_]+", named.name) for named in protocol.COMMANDS.values())
