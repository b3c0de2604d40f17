"""The benchmark: its generator counts correctly, and its peers answer correctly.

Nothing here asserts a speed.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from raida_uring import config
from raida_uring.bench import cases, contenders, runner
from raida_uring.bench import load as generator
from raida_uring.bench.load import (
    Exchange,
    Load,
    LoadError,
    Result,
    open_syscall_counter,
    read_syscall_counter,
    run_load,
)
from raida_uring.bench.meter import Settings
from raida_uring.bench.results import (
    Report,
)
from tests.support.command_line import PROGRAM
from tests.support.peers import tcp_peer, udp_peer

DURATION_MS = 300
ECHO_BYTES = len(cases.ECHO.request)


def clean(result: Result) -> bool:
    """Whether every request got exactly the answer it should."""
    return result.sent == result.answered and result.stray == 0


# -- histogram --------------------------------------------------------------------------------


def percentiles_ns(samples_ns: Iterable[int], quantiles: Iterable[float]) -> list[int]:
    """Each quantile (0..1) of the samples as the generator's histogram sees it."""
    histogram = generator._ffi.new("struct lg_histogram *")
    for sample in samples_ns:
        generator._lib.lg_histogram_record(histogram, sample)
    return [generator._lib.lg_histogram_percentile(histogram, round(q * 10000)) for q in quantiles]


def test_small_values_have_exact_percentiles() -> None:
    assert percentiles_ns(range(1, 101), [0.0, 0.5, 0.9, 0.99, 1.0]) == [1, 50, 90, 99, 100]


def test_large_values_are_rounded_up_by_at_most_a_64th() -> None:
    samples = [1000 * n for n in range(1, 100_001)]
    for quantile, seen in zip(
        (0.5, 0.9, 0.99), percentiles_ns(samples, (0.5, 0.9, 0.99)), strict=True
    ):
        exact = quantile * 100_000_000
        assert exact <= seen <= exact * 65 / 64


def test_percentiles_never_exceed_the_maximum() -> None:
    assert percentiles_ns([1_000_001], [0.5, 1.0]) == [1_000_001, 1_000_001]
    assert percentiles_ns([2**50], [0.5, 1.0]) == [2**50, 2**50], "beyond the last bucket"


def test_a_single_outlier_shows_only_in_the_last_per_mille() -> None:
    assert percentiles_ns([10] * 999 + [100], [0.99, 0.999, 0.9999]) == [10, 10, 100]


def test_no_samples_give_zero() -> None:
    assert percentiles_ns([], [0.5, 1.0]) == [0, 0]


# -- peers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=contenders.PEERS)
def peer(request: pytest.FixtureRequest) -> Iterator[contenders.Server]:
    contender = contenders.peer(request.param)
    with contenders.running(contender, os.sched_getaffinity(0)) as server:
        yield server


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_peers_answer_everything(peer: contenders.Server, case: cases.Case) -> None:
    load = Load(
        port=peer.port,
        duration_ms=DURATION_MS,
        transport=case.transport,
        window=16,
        timeout_ms=5000,
    )
    result = run_load(load, case.exchange)
    assert result.answered > 0
    assert clean(result), result
    assert 0 < result.p50_us <= result.p99_us <= result.max_us


def test_open_loop_sends_what_it_intends(peer: contenders.Server) -> None:
    load = Load(
        port=peer.port, duration_ms=DURATION_MS, window=1024, rate_per_s=1000, timeout_ms=5000
    )
    result = run_load(load, cases.VOTE)
    assert result.sent == DURATION_MS
    assert clean(result), result


def changed(**fields: int) -> bytes:
    """The echo request with single bytes replaced: at_<offset>=value."""
    request = bytearray(cases.ECHO.request)
    for name, value in fields.items():
        request[int(name.removeprefix("at_"))] = value
    return bytes(request)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (changed(at_0=0), 255),
        (changed(at_1=1), 2),
        (changed(at_2=cases.RAIDA_ID + 1), 3),
        (changed(at_4=16, at_3=4), 5),
        (changed(at_3=4), 4),
        (changed(at_5=9), 6),
        (changed(at_7=5), 7),
        (changed(at_16=1), 34),
        (changed(at_16=2), 34),
        (changed(at_16=3), 27),
        (changed(at_16=4), 25),
        (changed(at_16=5), 25),
        (changed(at_23=19), 16),
        (changed(at_23=1), 16),
        (changed(at_23=17)[:-3] + b">>", 16),
        (changed(at_49=0), 33),
        (changed(at_32=99), 37),
        (changed(), 250),
    ],
)
def test_peers_check_as_the_node_does(
    peer: contenders.Server, request_bytes: bytes, status: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(request_bytes, (contenders.HOST, peer.port))
        assert client.recv(2048)[2] == status


def test_a_request_in_pieces_is_one_request(peer: contenders.Server) -> None:
    with socket.create_connection((contenders.HOST, peer.port), timeout=5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in cases.ECHO.request:
            client.sendall(bytes((byte,)))
        reply = b""
        while chunk := client.recv(2048):
            reply += chunk
    assert reply[2] == cases.SUCCESS
    assert len(reply) == len(cases.ECHO.reply)


# -- peers that are wrong ---------------------------------------------------------------------


def answer(request: bytes) -> bytes:
    """The echo's answer as it should be."""
    reply = bytearray(cases.ECHO.reply)
    reply[6:8] = request[30:32]
    return bytes(reply)


def wrong_status(request: bytes) -> bytes:
    reply = bytearray(answer(request))
    reply[2] = 252
    return bytes(reply)


def wrong_tag(request: bytes) -> bytes:
    reply = bytearray(answer(request))
    reply[6] ^= 0x80
    return bytes(reply)


@contextlib.contextmanager
def udp_server(reply: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answers every datagram with reply(datagram), or not where that is empty. Yields the port."""
    with udp_peer(lambda data: filter(None, [reply(data)])) as (_, port):
        yield port


def one_request(reply: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        if request := connection.recv(2048):
            connection.sendall(reply(request))

    return serve


def short_load(port: int, **changes: object) -> Load:
    fields: dict[str, object] = {"port": port, "duration_ms": 100, "window": 4, "timeout_ms": 200}
    return Load(**(fields | {"busy_poll": False} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [wrong_status, lambda request: answer(request) + b">>"])
def test_wrong_datagrams_are_caught(reply: Callable[[bytes], bytes]) -> None:
    with udp_server(reply) as port:
        result = run_load(short_load(port), cases.ECHO)
    assert result.wrong > 0
    assert (result.answered, result.lost) == (0, 0)


@pytest.mark.parametrize("reply", [wrong_tag, lambda request: answer(request)[:7]])
def test_datagrams_that_answer_nobody_are_stray(reply: Callable[[bytes], bytes]) -> None:
    with udp_server(reply) as port:
        result = run_load(short_load(port), cases.ECHO)
    assert result.stray > 0
    assert not clean(result)
    assert result.sent == result.lost


def test_silence_is_loss() -> None:
    with udp_server(lambda _: b"") as port:
        closed = run_load(short_load(port), cases.ECHO)
        opened = run_load(short_load(port, rate_per_s=1000), cases.ECHO)
    assert closed.sent == closed.lost == 4
    assert opened.sent == opened.lost == 100, "what found no slot is lost, too"


@pytest.mark.parametrize(
    "reply",
    [
        wrong_status,
        wrong_tag,
        lambda request: answer(request)[:-1],
        lambda request: answer(request) + b">>",
        lambda request: answer(request) * 100,
    ],
)
def test_wrong_streams_are_caught(reply: Callable[[bytes], bytes]) -> None:
    with tcp_peer(one_request(reply)) as (_, port):
        result = run_load(short_load(port, transport="tcp"), cases.ECHO)
    assert result.wrong > 0
    assert result.answered == 0
    assert result.sent == result.wrong + result.lost


def test_a_connection_that_ends_early_is_loss() -> None:
    with tcp_peer(one_request(lambda _: b"")) as (_, port):
        result = run_load(short_load(port, transport="tcp"), cases.ECHO)
    assert result.sent == result.lost > 0


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nobody_listening_is_an_error(transport: str) -> None:
    with socket.create_server((contenders.HOST, 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LoadError, match="refused"):
        run_load(short_load(port, transport=transport), cases.ECHO)


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 0},
        {"window": 3},
        {"window": 8192},
        {"duration_ms": 0},
        {"transport": "tcp", "window": 20_000},
        {"transport": "tcp", "rate_per_s": 1},
        {"host": "localhost"},
    ],
)
def test_a_load_out_of_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LoadError, match="Invalid argument"):
        run_load(short_load(1, **changes), cases.ECHO)


@pytest.mark.parametrize(("variants", "replies"), [(96, 0), (127, 0), (128, 96), (0, 128)])
def test_variants_that_do_not_fit_are_refused(variants: int, replies: int) -> None:
    """Four of 32 bytes would, and as many replies."""
    exchange = Exchange(
        bytes(32), 0, bytes(32), 0, variants=bytes(variants), replies=bytes(replies)
    )
    with pytest.raises(LoadError, match=r"variants|replies"):
        run_load(short_load(1), exchange)


def test_turns_are_whole_rounds() -> None:
    with pytest.raises(LoadError, match="Invalid argument"):
        run_load(short_load(1), in_rounds(turns=3))


def in_rounds(turns: int) -> Exchange:
    """Echoes for a window of 4, whose byte 9 is their turn; each reply is to repeat it in byte 12.
    Two turns are a round."""
    requests = bytearray()
    replies = bytearray()
    for number in range(turns * 4):
        one = bytearray(changed(at_9=number // 4))
        one[30:32] = (number % 4).to_bytes(2)
        requests += one
        reply = bytearray(answer(bytes(one)))
        reply[12] = number // 4
        replies += reply
    return dataclasses.replace(
        cases.ECHO,
        variants=bytes(requests),
        replies=bytes(replies),
        turns=turns,
        round=2,
        ignore=((13, 16),),
    )


@pytest.mark.parametrize(
    "changes", [{}, {"rate_per_s": 1000}, {"transport": "tcp"}], ids=["closed", "open", "tcp"]
)
@pytest.mark.parametrize("duration_ms", [1, 50])
def test_variants_end_with_a_whole_round(changes: dict[str, object], duration_ms: int) -> None:
    """What one turn changes the next changes back, however short the load."""
    seen: list[int] = []

    def reply(request: bytes) -> bytes:
        seen.append(request[9])
        one = bytearray(answer(request))
        one[12] = request[9]
        return bytes(one)

    with contextlib.ExitStack() as stack:
        if "transport" in changes:
            _, port = stack.enter_context(tcp_peer(one_request(reply)))
        else:
            port = stack.enter_context(udp_server(reply))
        load = short_load(port, duration_ms=duration_ms, timeout_ms=5000, **changes)
        result = run_load(load, in_rounds(turns=4))
    assert result.answered > 0
    assert clean(result), result
    assert seen.count(0) == seen.count(1)
    assert seen.count(2) == seen.count(3)
    assert (seen.count(2) > 0) or duration_ms == 1


def test_a_message_too_long_is_refused() -> None:
    exchange = Exchange(bytes(20_000), 0, bytes(32), 0)
    with pytest.raises(LoadError, match="20000 bytes"):
        run_load(short_load(1), exchange)


# -- what surrounds it ------------------------------------------------------------------------


def test_system_calls_of_a_thread_are_counted() -> None:
    try:
        counter = open_syscall_counter(threading.get_native_id())
    except OSError as error:
        pytest.skip(f"perf events on raw_syscalls:sys_enter: {error}")
    try:
        before = read_syscall_counter(counter)
        for _ in range(100):
            os.getppid()
        assert 100 <= read_syscall_counter(counter) - before <= 110
    finally:
        os.close(counter)


def test_the_nodes_configuration_is_valid(tmp_path: Path) -> None:
    node = contenders.node(
        workers={"count": 4, "cpus": [0]},
        network={"io_cpu": 0},
        handlers={"modules": ["some.module"]},
    )
    command = node.command(50014, tmp_path)
    loaded = config.load(Path(command[-1]))
    assert loaded.server.raida_id == cases.RAIDA_ID
    assert loaded.workers.count == 4
    assert list(loaded.network.bind) == [contenders.HOST]


def test_a_server_that_does_not_start_is_named() -> None:
    broken = contenders.Contender("broken", lambda _port, _directory: ["false"])
    with (
        pytest.raises(contenders.ContenderError, match="broken ended with 1"),
        contenders.running(broken, os.sched_getaffinity(0)),
    ):
        pass


def test_an_interrupted_benchmark_reports_what_has_ended(tmp_path: Path) -> None:
    arguments = ("--rounds", "1", "--seconds", "0.1", "--json", str(tmp_path / "out.json"))
    process = subprocess.Popen(
        [*PROGRAM, "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=contenders.ROOT,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("kernel ")
        assert any(line.startswith("udp-echo: ") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.startswith("bench: takes about ")
    assert errors.endswith("raida-uring: bench: interrupted\n")
    told = json.loads((tmp_path / "out.json").read_text())
    assert next(one["name"] for one in told["cases"]) == "udp-echo"


def test_many_workers_answer_as_one_does() -> None:
    """A short run: the replies are right, whatever the speed."""
    cpu = min(os.sched_getaffinity(0))
    settings = Settings(100, 1, cpu, cpu, cases.WORKERS_CASE, frozenset({cpu}))
    *_, found = runner.measure(settings, Report({}, (), (), {}))
    assert len(found.workers_reports) == 3
    assert found.wrong_answers == 0
    for one in found.workers_reports:
        (pair,) = one.pairs
        assert pair.base.answered > 0, one.name
        assert pair.own.answered > 0, one.name
