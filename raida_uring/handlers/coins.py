"""Commands on coins: audit and the authentication group (detect, detect sum, pown, pown sum).

Source: wire specification, "Status group" (audit) and "Authentication group".
"""

import hmac
from itertools import compress
from typing import Final

from raida_uring.handlers import Node, Reply, Request, command
from raida_uring.protocol import Status
from raida_uring.protocol.layout import COIN_AN_SIZE, COIN_PAN_SIZE, PAGE_RECORD_SIZE
from raida_uring.store import (
    AN_BYTES,
    COIN_BYTES,
    DENOMINATION_BYTES,
    EQUAL,
    UNREADABLE,
    Coins,
    month_now,
)

LENGTH: Final = Reply(Status.INVALID_PACKET_LENGTH)
NOT_DIVISIBLE: Final = Reply(Status.COINS_NOT_DIV)
NO_SUCH_COIN: Final = Reply(Status.INVALID_SN_OR_DENOMINATION)
ALL_PASS: Final = Reply(Status.ALL_PASS)
ALL_FAIL: Final = Reply(Status.ALL_FAIL)
_LEGACY: Final = Reply(Status.LEGACY_DB)
_LEGACY_SHARDS: Final = (1, 2)

_PASSED: Final = bytes.maketrans(
    bytes(range(4)), bytes(b"01"[state == EQUAL] for state in range(4))
)
_IS_EQUAL: Final = bytes(state == EQUAL for state in range(256))
_VALUES: Final = {byte: 10**power for power, byte in enumerate(DENOMINATION_BYTES)}


def bits(states: bytes) -> bytes:
    """Return one bit per coin, the first coin lowest: 1 if its state is EQUAL."""
    return int(states[::-1].translate(_PASSED), 2).to_bytes((len(states) + 7) // 8, "little")


def verdict(states: bytes) -> Reply:
    """Return 241 if all are EQUAL, 242 if none is, otherwise 243 with a bit for each coin."""
    passed = states.count(EQUAL)
    if passed == len(states):
        return ALL_PASS
    return Reply(Status.MIXED, bits(states)) if passed else ALL_FAIL


def count_of(payload: bytes, stride: int, rest: int = 0) -> int | Reply:
    """Return how many coins of `stride` bytes precede the last `rest` bytes, or the refusal."""
    if len(payload) < stride + rest:
        return LENGTH
    count, over = divmod(len(payload) - rest, stride)
    return NOT_DIVISIBLE if over else count


def distinct(coins: bytes, count: int) -> bool:
    """Whether no coin is listed twice; a sum over ANs would not reveal that."""
    starts = range(0, count * COIN_BYTES, COIN_BYTES)
    return len({coins[start : start + COIN_BYTES] for start in starts}) == count


def value_of(coins: bytes, stride: int, states: bytes) -> int:
    """Return the value of the coins that are EQUAL, in units of 10^-8 coin."""
    passed = coins[::stride]
    if states.count(EQUAL) < len(states):
        passed = bytes(compress(passed, states.translate(_IS_EQUAL)))
    return sum(passed.count(byte) * _VALUES[byte] for byte in set(passed))


@command(group=0, code=3, public=True)
def audit(_request: Request, node: Node) -> Reply:
    """Coins in circulation by denomination: 15 times denomination and u32, 75 bytes."""
    counts = node.integrity.circulating
    return Reply(
        payload=b"".join(
            byte.to_bytes(1) + count.to_bytes(4)
            for byte, count in zip(DENOMINATION_BYTES, counts, strict=True)
        )
    )


@command(group=1, code=10, needs_body=True)
def detect(request: Request, node: Node) -> Reply:
    """Compare ANs with the stored ones. An unreadable coin counts as wrong."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_AN_SIZE), Reply):
        return count
    if request.shard in _LEGACY_SHARDS:
        return _LEGACY
    return verdict(node.coins.match(payload, count, COIN_AN_SIZE))


@command(group=1, code=11, needs_body=True)
def detect_sum(request: Request, node: Node) -> Reply:
    """Compare the XOR of the coins' ANs with the given one."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_BYTES, AN_BYTES), Reply):
        return count
    ans = readable_ans(node.coins, payload, count)
    if ans is None:
        return NO_SUCH_COIN
    return ALL_PASS if sum_proves(ans, payload[-AN_BYTES:]) else ALL_FAIL


@command(group=1, code=20, mode="write", needs_body=True)
def pown(request: Request, node: Node) -> Reply:
    """In order: replace the AN of each coin whose AN is right by the new one after it."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_PAN_SIZE), Reply):
        return count
    states = node.coins.exchange(
        payload, count, COIN_PAN_SIZE, COIN_BYTES, COIN_AN_SIZE, month_now()
    )
    _count_powned(node, payload, COIN_PAN_SIZE, states)
    return verdict(states)


@command(group=1, code=21, mode="write", needs_body=True)
def pown_sum(request: Request, node: Node) -> Reply:
    """If the first sum is the XOR of the coins' ANs, XOR the second into each of these ANs."""
    payload = request.payload
    if isinstance(count := count_of(payload, COIN_BYTES, 2 * AN_BYTES), Reply):
        return count
    ans = readable_ans(node.coins, payload, count)
    if ans is None:
        return NO_SUCH_COIN
    if not sum_proves(ans, payload[-2 * AN_BYTES : -AN_BYTES]):
        return ALL_FAIL
    difference = int.from_bytes(payload[-AN_BYTES:])
    coins = b"".join(
        payload[index * COIN_BYTES : (index + 1) * COIN_BYTES]
        + (int.from_bytes(an) ^ difference).to_bytes(AN_BYTES)
        for index, an in enumerate(ans)
    )
    states = node.coins.set(coins, count, COIN_AN_SIZE, month_now())
    _count_powned(node, coins, COIN_AN_SIZE, states)
    return ALL_PASS


def readable_ans(coins: Coins, payload: bytes, count: int) -> list[bytes] | None:
    """Return the ANs of `count` coins of 5 bytes; None if one is repeated or unreadable."""
    if not distinct(payload, count):
        return None
    records, states = coins.gather(payload, count)
    if UNREADABLE in states:
        return None
    return [
        records[at : at + AN_BYTES] for at in range(0, count * PAGE_RECORD_SIZE, PAGE_RECORD_SIZE)
    ]


def sum_proves(ans: list[bytes], given: bytes) -> bool:
    """Whether `given` is the XOR of these ANs and so proves that the client knows all of them.

    Equal ANs, as the coins of a locker have, cancel each other out: their sum proves nothing.
    """
    if len(set(ans)) < len(ans):
        return False
    total = 0
    for an in ans:
        total ^= int.from_bytes(an)
    return hmac.compare_digest(total.to_bytes(AN_BYTES), given)


def _count_powned(node: Node, coins: bytes, stride: int, states: bytes) -> None:
    passed = states.count(EQUAL)
    if passed:
        value = value_of(coins, stride, states)
        node.coins.after_commit(lambda: node.count_powned(passed, value))
