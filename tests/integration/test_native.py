"""Commands that the data plane answers without the interpreter, on sockets of a node.

What must hold: on whichever thread a request is executed, and whatever it shares a batch with, it
gets the same status, counts the same, and is told the same about a store that fails; a module that
registers such a command replaces it. tests/property/test_commands.py has what the commands answer.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from raida_uring.observe.readiness import unready
from raida_uring.protocol import Coin as KeyCoin
from raida_uring.protocol import Status, sealing
from raida_uring.protocol.sealing import Key
from raida_uring.store import trees
from tests.support.coin_requests import (
    DETECT,
    DETECT_SUM,
    FIND,
    GET_ALL_ROOTS,
    GET_TICKET,
    POWN,
    VALIDATE_TICKET,
    all_roots,
    an_of,
    ask,
    coins_ans,
    default_an,
    detects,
    page_of_coin,
    pown_payload,
    stored_roots,
    sum_payload,
    xor,
)
from tests.support.coins import Coins
from tests.support.command_line import PROGRAM, output_of
from tests.support.handlers import MIRROR, gate
from tests.support.net import tcp_ask, tcp_connect, turned_away, udp_ask, udp_client
from tests.support.node import Node, Table, config_text, daemon, eventually, running_node
from tests.support.replacing_handlers import ANSWER
from tests.support.store import Coin, coin_bytes, make_store, table_of, tables_over, without_journal
from tests.support.wire import (
    ADMIN_KEY,
    COIN_ID,
    ECHO_COMMAND,
    RAIDA_ID,
    SHOW_STATS_COMMAND,
    VERSION_COMMAND,
    reply_payload,
    request,
    status,
)
from tests.support.write_handlers import HOLD_WRITE, MODULES

FEW, MANY, MOST = 3, 36, 200  # coins: the I/O thread executes requests of at most 32
REPLACING: Table = {"modules": ["tests.support.replacing_handlers"]}
COINS = Coins()
ARENA_BYTES = 64 << 20  # a thread's arena of glibc begins at a multiple
TRANSPORTS = pytest.mark.parametrize("transport", ["udp", "tcp"])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def some(count: int) -> list[Coin]:
    return [(1, 10 + number) for number in range(count)]


def right(count: int) -> dict[Coin, bytes]:
    return {coin: default_an(coin) for coin in some(count)}


def replies(node: Node) -> dict[str, dict[int, int]]:
    """Number of replies by command and status, as the metrics have them."""
    return {f"{one.group}/{one.code}": one.replies for one in node.server.observe().commands}


def sealed(command: tuple[int, int], payload: bytes, encryption: int, an: bytes) -> bytes:
    key = Key(encryption, (KeyCoin(0, 8, an),))
    return sealing.seal_request(
        *command, payload, key=key, nonce=bytes(key.nonce_bytes), raida_id=RAIDA_ID, coin_id=COIN_ID
    )


# -- statuses on every way -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "transport"), [(FEW, "udp"), (FEW, "tcp"), (MANY, "udp"), (MOST, "tcp")]
)
def test_the_same_statuses_on_every_thread(store: Path, count: int, transport: str) -> None:
    good = right(count)
    mixed = {**good, some(count)[1]: bytes(16)}
    bad = dict.fromkeys(some(count), bytes(16))
    neither = [(coin, bytes(16), bytes(16)) for coin in good]
    sums = xor(good.values())
    unreadable = b"\x09" + bytes(20)
    asked: list[tuple[tuple[int, int], bytes, int]] = [
        (DETECT, coins_ans(good), Status.ALL_PASS),
        (DETECT, coins_ans(mixed), Status.MIXED),
        (DETECT, coins_ans(bad), Status.ALL_FAIL),
        (DETECT, coins_ans(good) + b"x", Status.COINS_NOT_DIV),
        (DETECT, b"x", Status.INVALID_PACKET_LENGTH),
        (DETECT_SUM, sum_payload(good, sums), Status.ALL_PASS),
        (DETECT_SUM, sum_payload(good, bytes(16)), Status.ALL_FAIL),
        (DETECT_SUM, sum_payload([*good, some(1)[0]], sums), Status.INVALID_SN_OR_DENOMINATION),
        (FIND, pown_payload((coin, an, bytes(16)) for coin, an in good.items()), 209),
        (FIND, pown_payload((coin, bytes(16), an) for coin, an in good.items()), 210),
        (FIND, pown_payload(neither), Status.FIND_NEITHER),
        (GET_TICKET, coins_ans(good), Status.ALL_PASS),
        (GET_TICKET, coins_ans(bad), Status.ALL_FAIL),
        (GET_TICKET, coins_ans(good) + unreadable, Status.INVALID_SN_OR_DENOMINATION),
        (POWN, pown_payload(neither), Status.ALL_FAIL),
        (POWN, pown_payload(neither) + b"x", Status.COINS_NOT_DIV),
    ]
    with running_node(**tables_over(store)) as node:
        seen = [ask(node.endpoint, command, payload, transport)[0] for command, payload, _ in asked]
        assert seen == [wanted for _, _, wanted in asked]
        bare = tcp_ask if transport == "tcp" else udp_ask
        for command in (DETECT, DETECT_SUM, FIND, GET_TICKET, POWN, GET_ALL_ROOTS):
            assert status(bare(node.endpoint, request(command, body=False))) == 36
        told = replies(node)
        assert told["1/10"] == {241: 1, 243: 1, 242: 1, 39: 1, 16: 1, 36: 1}
        assert told["1/20"] == {242: 1, 39: 1, 36: 1}


@pytest.mark.parametrize("encryption", [0, 1, 4])
def test_one_batch_of_all_lanes(store: Path, encryption: int) -> None:
    """What the I/O thread, native workers, the native writer and workers of Python answer."""
    old, new = right(FEW), {coin: an_of(coin) for coin in some(FEW)}
    changes = pown_payload((coin, an, new[coin]) for coin, an in old.items())
    key = default_an((0, 8))

    def built(command: tuple[int, int], payload: bytes) -> bytes:
        if encryption == 0:
            return request(command, payload)
        return sealed(command, payload, encryption, key)

    asked = [
        (built(DETECT, coins_ans(right(MANY))), None),
        (built(POWN, changes), 241),
        (built(DETECT, coins_ans({(5, 5): default_an((5, 5))})), 241),
        (built(GET_TICKET, coins_ans({(5, 6): default_an((5, 6))})), 241),
        (built(MIRROR, b"by a handler"), 250),
        (built(ECHO_COMMAND, b""), 250),
        (built(SHOW_STATS_COMMAND, ADMIN_KEY), 250),
        (built(DETECT, coins_ans({(5, 5): bytes(16)})), 242),
    ]
    with running_node(**tables_over(store), handlers=MODULES) as node, ExitStack() as stack:
        clients = [stack.enter_context(udp_client(node.endpoint)) for _ in asked]
        for _ in range(20):
            for client, (data, _) in zip(clients, asked, strict=True):
                client.sendto(data, node.endpoint)
            for client, (_, wanted) in zip(clients, asked, strict=True):
                answered = status(client.recv(2048))
                assert wanted in (None, answered) or (wanted == 241 and answered == 242)
        assert detects(node.endpoint, new)
        counters = node.counters()
        assert counters["coins_powned"] == FEW
        assert counters["value_powned"] == FEW * 10**9
        told = replies(node)
        assert told["1/20"] == {241: 1, 242: 19}
        assert told["2/40"] == {241: 20}
        assert told["5/206"] == {250: 20}
        assert counters["checks_failed"] == 0


def test_a_node_without_a_store(tmp_path: Path) -> None:
    """Neither coins nor keys."""
    with running_node() as node:
        for count in (FEW, MANY):
            assert ask(node.endpoint, DETECT, coins_ans(right(count)))[0] == 89
        assert ask(node.endpoint, POWN, pown_payload([((1, 1), bytes(16), bytes(16))]))[0] == 89
        assert status(udp_ask(node.endpoint, request(POWN, body=False))) == 36
        assert ask(node.endpoint, VALIDATE_TICKET, bytes(5))[0] == 89
        wrong = sealed(DETECT, coins_ans(right(FEW)), 4, bytes(16))
        assert status(udp_ask(node.endpoint, wrong)) == Status.ENCRYPTION_COIN_NOT_FOUND
        told = replies(node)
        assert told["1/10"] == {89: 2, 25: 1}
        assert told["1/20"] == {89: 1, 36: 1}


def test_what_a_forged_sender_must_not_get_is_89_and_changes_nothing(store: Path) -> None:
    limits: Table = {"udp_reply_factor_max": 1, "failed_checks_burst": 0}
    with running_node(**tables_over(store), limits=limits) as node:
        assert status(udp_ask(node.endpoint, request(VERSION_COMMAND, body=False))) == 89
        assert status(tcp_ask(node.endpoint, request(VERSION_COMMAND, body=False))) == 250
        names = right(MANY)
        answered, ticket = ask(node.endpoint, GET_TICKET, coins_ans(names), "udp")
        assert answered == 241
        claim = bytes((3,)) + ticket
        assert ask(node.endpoint, VALIDATE_TICKET, claim, "udp") == (89, b"")
        told = ask(node.endpoint, VALIDATE_TICKET, claim)
        assert told == (250, b"".join(map(coin_bytes, names)))
        assert ask(node.endpoint, VALIDATE_TICKET, claim)[0] == Status.TICKET_CLAIMED_ALREADY
        assert replies(node)["2/50"] == {89: 1, 250: 1, 44: 1}


def test_a_raida_known_by_name_is_not_locked_out(store: Path) -> None:
    limits: Table = {"failed_checks_burst": 3, "failed_checks_per_min": 1}
    servers = ["localhost:1"] * 25
    wrong = request(VALIDATE_TICKET, bytes((3,)) + bytes(3) + b"\1")
    with running_node(
        store=table_of(store), limits=limits, server={"raida_servers": servers}
    ) as node:
        inside = node.server._node
        assert inside is not None
        eventually(lambda: inside.is_raida("127.0.0.1"))
        assert {status(tcp_ask(node.endpoint, wrong)) for _ in range(20)} == {43}
        with tcp_connect(node.endpoint, "127.5.0.1") as stranger:
            stranger.sendall(wrong)
            assert status(stranger.recv(64)) == 43
        node.wait_for_counts(checks_failed=1)


def allocated(process: int) -> bytes:
    """What malloc has given out and taken back in a process: its heap and the arenas of threads."""
    found = []
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            first, last = (int(at, 16) for at in line.split()[0].split("-"))
            if " rw-p " in line and (line.endswith("[heap]") or first % ARENA_BYTES == 0):
                memory.seek(first)
                found.append(memory.read(last - first))
    return b"".join(found)


@pytest.mark.any_backend
def test_requests_of_every_lane_are_in_the_log(tmp_path: Path, store: Path) -> None:
    change = pown_payload([((1, 10), default_an((1, 10)), an_of("new"))])
    asked = [
        (DETECT, coins_ans(right(FEW))),
        (DETECT, coins_ans(right(MOST))),
        (POWN, change),
        (MIRROR, b"by a handler"),
    ]
    with daemon(tmp_path, store=table_of(store), handlers=MODULES) as running:
        answered = [ask(running.endpoint, *one)[0] for one in asked]
        assert answered == [241, 241, 241, 250]
        lines = re.compile(r"request (\d+)/(\d+) from 127\.0\.0\.1 .* over tcp: (\d+) ")

        def logged() -> list[tuple[str, ...]]:
            return sorted(lines.findall(running.stderr()))

        wanted = [("1", "10", "241")] * 2 + [("1", "20", "241"), ("5", "206", "250")]
        eventually(lambda: logged() == wanted, what=running.stderr)


@pytest.mark.any_backend
def test_the_io_thread_keeps_no_key(tmp_path: Path) -> None:
    """It never waits for requests alone, as others do that forget their last key then."""
    an = os.urandom(16)
    path = make_store(tmp_path / "store", {(0, 8): (an, 7)})
    with daemon(tmp_path, store=table_of(path)) as running:
        before = allocated(running.process.pid).count(an)
        asked = sealed(ECHO_COMMAND, b"", 1, an)
        assert status(udp_ask(running.endpoint, asked)) == 250
        assert allocated(running.process.pid).count(an) == before


# -- replaced ------------------------------------------------------------------------------------


@TRANSPORTS
@pytest.mark.parametrize("stored", [True, False])
def test_a_module_replaces_a_native_command(store: Path, transport: str, *, stored: bool) -> None:
    tables: Mapping[str, Table] = tables_over(store) if stored else {}
    exchange = tcp_ask if transport == "tcp" else udp_ask
    keys = None if stored else COINS
    with running_node(keys, **tables, handlers=REPLACING) as node:
        wanted = ANSWER + bytes((stored,))
        for payload in (b"", b"short", coins_ans(right(MANY))):
            assert ask(node.endpoint, DETECT, payload, transport) == (250, wanted + payload)
        key = default_an((0, 8)) if stored else COINS.an(0, 8)
        assert key is not None
        for encryption in (1, 4):
            data = sealed(ECHO_COMMAND, b"", encryption, key)
            reply = exchange(node.endpoint, data)
            assert status(reply) == 250
            assert len(reply) > 48  # the built-in one has no payload
        assert reply_payload(exchange(node.endpoint, request(ECHO_COMMAND, b"x"))) == ANSWER[:15]
        assert (
            reply_payload(exchange(node.endpoint, request(ECHO_COMMAND, body=False)))
            == (ANSWER[:15])
        )
        assert ask(node.endpoint, VERSION_COMMAND, b"", transport)[0] == 250


@pytest.mark.any_backend
def test_what_replaces_a_command_is_listed(tmp_path: Path, store: Path) -> None:
    choices: list[Mapping[str, Table]] = [{}, tables_over(store)]
    for tables in choices:
        path = tmp_path / "node.toml"
        path.write_text(config_text({**tables, "handlers": REPLACING}))
        listed = output_of(*PROGRAM, "commands", "--config", path)
        lines = [line for line in listed.splitlines() if re.match(r"1/10 |0/0 |0/1 ", line)]
        assert len(lines) == 3
        sources = [re.findall(r"\((.*)\)$", line)[0] for line in lines]
        by = "[handlers] modules: tests.support.replacing_handlers"
        assert sources == [by, "built in", by]


# -- a store that fails --------------------------------------------------------------------------


def test_a_failing_store_is_told_of_and_recovers(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change = pown_payload([((1, 10), default_an((1, 10)), an_of("new"))])
    with running_node(**tables_over(store)) as node, caplog.at_level(logging.ERROR):
        asked = 0
        with without_journal(store):
            while not unready(node.server.observe()):
                assert ask(node.endpoint, POWN, change)[0] == Status.FILESYSTEM
                asked += 1
            for _ in range(20):
                assert ask(node.endpoint, POWN, change, "udp")[0] == Status.FILESYSTEM
                asked += 1
            assert detects(node.endpoint, right(FEW))  # nothing has changed, reads go on
            eventually(  # the last one is noted after the reply that tells of it
                lambda: (
                    (seen := node.server.observe().writing) is not None
                    and seen.fault is not None
                    and seen.failed_commits == asked
                )
            )
            assert node.counters()["coins_powned"] == 0
        eventually(lambda: ask(node.endpoint, POWN, change)[0] == Status.ALL_PASS)
        eventually(lambda: not unready(node.server.observe()))
        assert detects(node.endpoint, {(1, 10): an_of("new")})
        # The last ones, too, although none follows; not a line each.
        told = re.compile(r"(\d+) requests? answered 194")
        eventually(
            lambda: sum(map(int, told.findall("\n".join(caplog.messages)))) >= asked,
            what=lambda: (asked, caplog.messages),
        )
        assert len(told.findall("\n".join(caplog.messages))) < asked


def test_roots_follow_a_native_change_at_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes would go on for the roots without it until somebody looked."""
    monkeypatch.setattr(trees, "LOOK_S", 600.0)
    coin = (1, 10)
    with running_node(**tables_over(store)) as node:
        for old, new in ((default_an(coin), an_of(1)), (an_of(1), an_of(2))):
            before = all_roots(node.endpoint)
            assert ask(node.endpoint, POWN, pown_payload([(coin, old, new)]))[0] == 241
            eventually(lambda before=before: all_roots(node.endpoint) != before)  # type: ignore[misc]
        shown = all_roots(node.endpoint)
    assert shown == stored_roots(store, [page_of_coin(coin)])


# -- lanes beside each other ---------------------------------------------------------------------


def test_reads_do_not_wait_for_a_handler_that_changes_coins(store: Path) -> None:
    """Changes do: one at a time."""
    change = pown_payload([((1, 10), default_an((1, 10)), an_of("new"))])
    with running_node(**tables_over(store), handlers=MODULES) as node, ExitStack() as stack:
        writer = stack.enter_context(udp_client(node.endpoint))
        owner = stack.enter_context(udp_client(node.endpoint))
        with gate.closed():
            writer.sendto(request(HOLD_WRITE), node.endpoint)
            eventually(lambda: gate.inside == 1)
            owner.sendto(request(POWN, change), node.endpoint)
            node.wait_for_counts(udp_in_flight=2)
            for count in (FEW, MANY):
                assert detects(node.endpoint, right(count))
            assert ask(node.endpoint, GET_TICKET, coins_ans(right(FEW)))[0] == 241
            assert node.counters()["udp_in_flight"] == 2
        assert status(owner.recv(2048)) == Status.ALL_PASS
        assert status(writer.recv(2048)) == 250


def test_a_drain_answers_native_changes_that_wait(store: Path) -> None:
    change = pown_payload([((1, 10), default_an((1, 10)), an_of("new"))])
    other = pown_payload([((1, 11), default_an((1, 11)), an_of("new"))])
    with running_node(**tables_over(store), handlers=MODULES) as node, ExitStack() as stack:
        stopper = threading.Thread(target=node.server.stop)
        writer, owner = (stack.enter_context(udp_client(node.endpoint)) for _ in range(2))
        stream = stack.enter_context(tcp_connect(node.endpoint))
        with gate.closed():
            writer.sendto(request(HOLD_WRITE), node.endpoint)
            eventually(lambda: gate.inside == 1)
            owner.sendto(request(POWN, change), node.endpoint)
            stream.sendall(request(POWN, other))
            node.wait_for_counts(udp_in_flight=2, tcp_in_flight=1)
            stopper.start()
            eventually(lambda: turned_away(node.endpoint))
            assert stopper.is_alive()
        assert status(owner.recv(2048)) == Status.ALL_PASS
        assert status(stream.recv(2048)) == Status.ALL_PASS
        assert status(writer.recv(2048)) == 250
        stopper.join()
        node.wait_for_counts(coins_powned=2)
