"""Encryption against the recordings of the reference server, and against itself.

What must hold: an opener reads what a client sealed and the other way round, for every type and
size; every damage has its own status and shows nothing but what the specification says. All of it
for the node's own opener in C and for the one in Python that it is compared with.
"""

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from raida_uring import protocol
from raida_uring.errors import ProtocolError
from raida_uring.protocol import Coin, CoinName, Status, sealing
from raida_uring.protocol.sealing import Key
from tests.support.coins import Coins
from tests.support.native_seal import NativeOpener
from tests.support.opener import Keys, Opened, Opener, Seal
from tests.support.wire import RAIDA_ID, Vector, load_vectors

COINS = Coins()
SEALED = [vector for vector in load_vectors() if vector.category.startswith("encryption")]
SEALED = [vector for vector in SEALED if vector.request[0] == 1]  # header decisions are C's


def named(name: str) -> Vector:
    (found,) = (vector for vector in SEALED if vector.name == name)
    return found


PUBLIC = {(0, 1), (0, 3), (14, 2), (14, 4), (14, 5)}  # strangers can know their replies


OPENERS: tuple[type[NativeOpener] | type[Opener], ...] = (NativeOpener, Opener)


def open_bytes(request: bytes, keys: Keys | None = COINS, *, public: bool = False) -> Opened:
    """What both openers say, with the seal of the first."""
    size = protocol.header_bytes(request[16])
    native, other = (
        opener(keys).open(request[:size], request[size:], public=public) for opener in OPENERS
    )
    assert native[:2] == other[:2]
    assert (native.seal is None) == (other.seal is None)
    if native.seal is not None and other.seal is not None:
        for answer in (b"", b"a", bytes(100)):
            sealed = native.seal(answer)
            assert other.seal(answer, nonce=sealed[:22]) == sealed
    return native


def key_coin(den: int, sn: int) -> Coin:
    an = COINS.an(den, sn)
    assert an is not None
    return Coin(den, sn, an)


KEYS = {
    1: Key(1, (key_coin(0, 8),)),
    4: Key(4, (key_coin(-8, 1023998),)),
    5: Key(5, (key_coin(0, 8), key_coin(2, 100))),
}
NONCES = {1: bytes(range(8)), 4: bytes(range(24)), 5: bytes(range(24))}
CHALLENGE = b"challenge-12"


def sealed_request(encryption: int, payload: bytes = b"", *, body: bool = True) -> bytes:
    return sealing.seal_request(
        0,
        1,
        payload,
        key=KEYS[encryption],
        nonce=NONCES[encryption],
        raida_id=RAIDA_ID,
        challenge=CHALLENGE,
        body=body,
    )


# --- Recordings -------------------------------------------------------------------------------

HANDLERS_OWN = {241, 250, 38}  # statuses of commands: the request itself was valid


@pytest.mark.parametrize("vector", SEALED, ids=lambda vector: vector.name)
def test_recorded_requests_are_decided_alike(vector: Vector) -> None:
    assert vector.response is not None
    opened = open_bytes(vector.request, public=tuple(vector.request[4:6]) in PUBLIC)
    recorded = vector.response[2]
    if recorded in HANDLERS_OWN:
        assert opened.refusal is None
    else:
        assert opened.refusal == recorded
    if vector.request[16] == 1 and opened.seal is not None:
        assert opened.seal(b"") == vector.response[16:32]
    elif vector.request[16] == 1:
        assert vector.response[16:32] == bytes(16)


def test_the_recordings_meant_are_there() -> None:
    assert len(SEALED) == 29
    assert {vector.request[16] for vector in SEALED} == {1, 2, 4, 5}


@pytest.mark.parametrize("name", ["t1_version", "t1_default_record_key"])
def test_replies_of_type_1_are_the_reference_server_s(name: str) -> None:
    """Its ciphers, though no node of ours answers a public command under type 1."""
    vector = named(name)
    assert vector.reference is not None
    opened = open_bytes(vector.request)
    assert opened.seal is not None
    assert opened.seal(b"20250323") + b">>" == vector.reference[16:]


def test_recorded_page_of_1088_blocks() -> None:
    vector = named("t1_page_data")
    assert vector.reference is not None
    opened = open_bytes(vector.request)
    den, page = opened.payload[0], int.from_bytes(opened.payload[1:5])
    records = [COINS.record(den, page * 1024 + index) for index in range(1024)]
    assert opened.seal is not None
    assert opened.seal(b"".join(records)) + b">>" == vector.reference[16:]


def test_recorded_key_of_type_4() -> None:
    vector = named("t4_version_udp")
    assert vector.response is not None
    header = protocol.parse_request_header(vector.request)
    assert header.key_coin is not None
    key = Key(4, (key_coin(*header.key_coin),))
    assert key.cipher_key == vector.cipher_key


def test_recorded_type_1_request_is_built_alike() -> None:
    """The example of the specification, 4.4."""
    vector = named("t1_version")
    opened = open_bytes(vector.request)
    assert opened.refusal is None
    header = protocol.parse_request_header(vector.request)
    key = Key(1, (key_coin(0, 8),))
    assert header.key_coin == (0, 8)
    counter = header.nonce + bytes(8)
    body = vector.request[32:-2]
    plain = Cipher(algorithms.AES(key.cipher_key), modes.CTR(counter)).decryptor().update(body)
    built = sealing.seal_request(
        0, 1, key=key, nonce=header.nonce, raida_id=RAIDA_ID, challenge=plain[:12]
    )
    assert built == vector.request


# --- Round trips ------------------------------------------------------------------------------


def as_reply(request: bytes, sealed: bytes, status: int = 250) -> bytes:
    """The reply that the data plane makes of what a seal returned."""
    encryption = request[16]
    size = len(KEYS[encryption].coins) and protocol.reply_header_bytes(status, encryption)
    header = bytearray(size)
    header[0], header[2], header[3] = RAIDA_ID, status, request[4]
    lead = 16 if size == 32 else 22
    content = sealed[lead:] + protocol.TERMINATOR if len(sealed) > lead else b""
    header[9:12] = len(content).to_bytes(3)
    if size == 32:
        header[6:8], header[16:32] = request[30:32], sealed[:16]
    else:
        header[16], header[17:22], header[46:48] = encryption, request[19:24], request[46:48]
        header[24:46] = sealed[:22] or bytes(22)
        if encryption == 5:
            header[24:29] = request[24:29]
    return bytes(header) + content


@given(
    encryption=st.sampled_from(sorted(KEYS)),
    payload=st.binary(max_size=2000),
    answer=st.binary(max_size=2000),
)
def test_round_trip(encryption: int, payload: bytes, answer: bytes) -> None:
    key = KEYS[encryption]
    request = sealed_request(encryption, payload)
    opened = open_bytes(request)
    assert (opened.refusal, opened.payload) == (None, payload)
    assert opened.seal is not None
    reply = protocol.parse_reply(as_reply(request, opened.seal(answer)), encryption)
    assert sealing.open_reply(reply, key=key, nonce=NONCES[encryption]) == answer
    if encryption == 1:
        assert reply.challenge == sealing.prove_challenge(CHALLENGE, key)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_longest_bodies(encryption: int) -> None:
    overhead = 18 if encryption == 1 else 34
    payload = bytes(range(256)) * 256
    request = sealed_request(encryption, payload[: 65535 - overhead])
    assert open_bytes(request).payload == payload[: 65535 - overhead]
    with pytest.raises(ValueError, match="65536"):
        sealed_request(encryption, payload[: 65536 - overhead])


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_without_a_body(encryption: int) -> None:
    """No key was proved: nothing is sealed."""
    assert open_bytes(sealed_request(encryption, body=False)) == (None, b"", None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
@pytest.mark.parametrize("body", [b"", b"\xff", b"\xff\xff", bytes(16) + b">>", bytes(70) + b">>"])
def test_public_commands(encryption: int, body: bytes) -> None:
    """36 under type 1 before the body is looked at, but not before the key coin; 4 and 5 differ in
    nothing from other commands."""
    size = protocol.header_bytes(encryption)
    whole = sealed_request(encryption)
    length = slice(22, 24) if encryption == 1 else slice(17, 19)
    header = bytearray(whole[:size])
    header[length] = len(body).to_bytes(2)
    for request in (whole, bytes(header) + body, bytes(header)):
        opened = open_bytes(request, public=True)
        if encryption == 1:
            assert opened == (Status.EMPTY_REQUEST, b"", None)
            assert open_bytes(request, None, public=True).refusal == Status.INVALID_ENCRYPTION
        else:
            other = open_bytes(request)
            assert opened[:2] == other[:2]
            assert (opened.seal is None) == (other.seal is None)


def test_counters_carry_through_all_128_bits() -> None:
    """A type 4 nonce may end in FF bytes: block 1 then starts with a carry (fault B12)."""
    nonce = b"\x01" + b"\xff" * 15 + bytes(8)
    key = KEYS[4]
    payload = bytes(64)
    request = sealing.seal_request(0, 1, payload, key=key, nonce=nonce, raida_id=RAIDA_ID)
    blocks = [b"\x01" + b"\xff" * 15] + [b"\x02" + bytes(14) + bytes((n,)) for n in range(3)]
    ecb = Cipher(algorithms.AES(key.cipher_key), modes.ECB()).encryptor()  # noqa: S305  reference
    assert request[48:112] == b"".join(ecb.update(block) for block in blocks)
    assert open_bytes(request).payload == payload


@pytest.mark.parametrize("opener_type", OPENERS)
def test_one_opener_keeps_requests_apart(opener_type: type[NativeOpener] | type[Opener]) -> None:
    """Contexts are used again: the order of seals must not show."""

    class Many:
        def an(self, den: int, sn: int) -> bytes | None:
            return hashlib.sha256(bytes((sn & 0xFF, sn >> 8))).digest()[:16]

    keys = Many()
    opener = opener_type(keys)
    waiting: list[tuple[bytes, bytes, Key, Seal | None]] = []
    for sn in [*range(300), 3, 3, 5]:
        an = keys.an(0, sn)
        assert an is not None
        kind = (1, 4)[sn % 2]
        key = Key(kind, (Coin(0, sn, an),))
        nonce = len(waiting).to_bytes(key.nonce_bytes)
        data = sealing.seal_request(0, 1, nonce * 9, key=key, nonce=nonce, raida_id=RAIDA_ID)
        size = protocol.header_bytes(kind)
        opened = opener.open(data[:size], data[size:])
        assert opened.payload == nonce * 9
        waiting.append((data, nonce, key, opened.seal))
        if isinstance(opener, NativeOpener) and sn % 7 == 0:
            opener.forget()
    for data, nonce, key, seal in reversed(waiting):
        assert seal is not None
        reply = protocol.parse_reply(as_reply(data, seal(nonce * 5)), key.encryption)
        assert sealing.open_reply(reply, key=key, nonce=nonce) == nonce * 5


def test_nonces_are_fresh() -> None:
    opened = {encryption: open_bytes(sealed_request(encryption)).seal for encryption in (4, 5)}
    for encryption, seal in opened.items():
        assert seal is not None
        first, second = seal(b"same"), seal(b"same")
        kept = 5 if encryption == 5 else 0
        assert first[:kept] == second[:kept] == KEYS[5].coins[1].name.wire[:kept]
        assert first[kept:22] != second[kept:22]
        assert first[22:26] != second[22:26]


# --- Damage -----------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_every_flipped_byte_of_the_body(encryption: int) -> None:
    """Type 1 protects its challenge only; 4 and 5 all of the ciphertext."""
    request = sealed_request(encryption, b"payload")
    size = protocol.header_bytes(encryption)
    for at in range(size, len(request)):
        opened = open_bytes(flipped(request, at))
        if at >= len(request) - 2:
            expected: Status | None = Status.INVALID_EOF
        elif encryption == 1:
            expected = Status.INVALID_CRC if at < size + 16 else None
        else:
            expected = Status.INVALID_HMAC
        assert opened.refusal == expected, at
        assert not (opened.refusal and opened.payload)
        assert (opened.seal is None) == (expected is not None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_cut_short(encryption: int) -> None:
    """A datagram that ends before its body does: 16, and never before the key is looked at."""
    request = sealed_request(encryption, b"payload")
    size = protocol.header_bytes(encryption)
    unknown = Status.INVALID_ENCRYPTION if encryption == 1 else Status.ENCRYPTION_COIN_NOT_FOUND
    for end in range(size, len(request)):
        assert open_bytes(request[:end]) == (Status.INVALID_PACKET_LENGTH, b"", None)
        assert open_bytes(request[:end], None) == (unknown, b"", None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_body_lengths_too_small(encryption: int) -> None:
    """BL 1: 16. From 2 on the terminator is looked at first; then the shortest body."""
    request = sealed_request(encryption)
    size, least = protocol.header_bytes(encryption), 18 if encryption == 1 else 34
    offset = 22 if encryption == 1 else 17
    for length in range(1, least):
        header = request[:offset] + length.to_bytes(2) + request[offset + 2 : size]
        junk = open_bytes(header + b"\xff" * length)
        ended = open_bytes(header + (b"\xff" * length + b">>")[-length:])
        expected = Status.INVALID_PACKET_LENGTH if length < 2 else Status.INVALID_EOF
        assert junk == (expected, b"", None)
        assert ended == (Status.INVALID_PACKET_LENGTH, b"", None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
@pytest.mark.parametrize(
    ("den", "sn"), [(-9, 0), (7, 0), (127, 0), (-128, 0), (0, 1024000), (0, 2**26 + 8), (5, 7168)]
)
def test_unreadable_key_coins(encryption: int, den: int, sn: int) -> None:
    """Fault B8 too: a serial number past the end is no alias of one within."""
    request = sealed_request(encryption)
    offset = 17 if encryption == 1 else 19
    places = [offset, 24] if encryption == 5 else [offset]
    for place in places:
        name = CoinName(den, sn).wire
        damaged = request[:place] + name + request[place + 5 :]
        status = Status.INVALID_ENCRYPTION if encryption == 1 else Status.ENCRYPTION_COIN_NOT_FOUND
        assert open_bytes(damaged) == (status, b"", None)


def test_type_2_without_lockers() -> None:
    key = Key(2, locker=b"locker-key-of-16")
    request = sealing.seal_request(0, 1, key=key, nonce=bytes(8), raida_id=RAIDA_ID)
    assert request[16:22] == b"\x02locke"
    assert open_bytes(request) == (Status.INVALID_ENCRYPTION, b"", None)


@pytest.mark.parametrize("encryption", [1, 4, 5])
def test_wrong_key(encryption: int) -> None:
    class Others:
        def an(self, den: int, sn: int) -> bytes | None:
            return bytes(16)

    opened = open_bytes(sealed_request(encryption, b"payload"), Others())
    refusal = Status.INVALID_CRC if encryption == 1 else Status.INVALID_HMAC
    assert opened == (refusal, b"", None)


def test_swapped_coins_are_another_key() -> None:
    first, second = KEYS[5].coins
    assert Key(5, (first, second)).cipher_key != Key(5, (second, first)).cipher_key


def test_forged_replies_are_refused() -> None:
    request = sealed_request(4)
    seal = open_bytes(request).seal
    assert seal is not None
    reply = as_reply(request, seal(b"answer"))
    for at in range(48, len(reply) - 2):
        with pytest.raises(ProtocolError, match="HMAC"):
            sealing.open_reply(
                protocol.parse_reply(flipped(reply, at), 4), key=KEYS[4], nonce=NONCES[4]
            )
    short = protocol.parse_reply(as_reply(request, bytes(22 + 31)), 4)
    with pytest.raises(ProtocolError, match="too few"):
        sealing.open_reply(short, key=KEYS[4], nonce=NONCES[4])


def test_keys_that_do_not_fit() -> None:
    coin = KEYS[1].coins[0]
    for encryption, coins, locker in [
        (0, (), b""),
        (3, (coin,), b""),
        (1, (), b""),
        (5, (coin,), b""),
        (2, (), b"short"),
        (4, (coin,), bytes(16)),
    ]:
        with pytest.raises(ValueError, match=r"encryption = \d"):
            Key(encryption, coins, locker)
    with pytest.raises(ValueError, match="16 bytes"):
        Coin(0, 1, bytes(15))
    with pytest.raises(ValueError, match="sn = -1: must be"):
        Coin(0, -1, bytes(16))


def test_keys_do_not_print_their_secrets() -> None:
    coin = Coin(0, 1, b"secret-an-16byte")
    locker = Key(2, locker=b"secret-key-16byt")
    assert "secret" not in repr(coin) + repr(Key(1, (coin,))) + repr(locker)
