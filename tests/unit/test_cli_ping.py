"""`raida-uring ping`, as a process, and clients by the same ways to a node."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raida_uring import protocol
from tests.support.command_line import PROGRAM, TIMEOUT_S, environment, execute, run
from tests.support.needs import require_ipv6
from tests.support.peers import tcp_peer, udp_peer


def answer_to(request: bytes) -> bytes:
    """A successful echo reply, 5 us of work."""
    return (
        bytes((request[2], 0, 250, 0, 0, 1))
        + request[30:32]
        + bytes(4)
        + (5).to_bytes(4)
        + request[32:48]
    )


@contextmanager
def udp_responder(*, silent_to: int | None = None) -> Iterator[int]:
    """Answers echo requests on a loopback port, except the one of that number. Yields the port."""

    def answers(request: bytes) -> Iterator[bytes]:
        if int.from_bytes(request[30:32]) != silent_to:
            yield answer_to(request)

    with udp_peer(answers) as (_, port):
        yield port


@contextmanager
def tcp_responder(answers: Iterable[bytes]) -> Iterator[int]:
    """Replies with each of `answers`, one a connection, a byte at a time; b"" is a successful echo
    reply. Closes further connections at once. Yields the port."""
    left = iter(answers)

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (answer := next(left, None)) is not None:
            request = connection.recv(2048)
            for byte in answer or answer_to(request):
                connection.sendall(bytes((byte,)))

    with tcp_peer(serve) as (_, port):
        yield port


def test_ping_prints_a_line_for_each_answer_and_a_summary() -> None:
    with udp_responder() as port:
        done = run("ping", f"127.0.0.1:{port}", "-c", "3", "-i", "0", "--raida-id", "7")
    assert (done.returncode, done.stderr) == (0, "")
    first, *answers, rule, sums, times = done.stdout.splitlines()
    assert first == f"PING 127.0.0.1:{port} over UDP, RAIDA 7 (as told)"
    assert len(answers) == 3
    for sequence, line in enumerate(answers, 1):
        assert line.startswith(f"250 SUCCESS from 127.0.0.1:{port}: seq={sequence} time=")
        assert line.endswith(" ms server=5 us")
    assert rule == f"--- 127.0.0.1:{port} ---"
    assert sums == "3 sent, 3 answered, 0 timeouts, 0% loss"
    assert times.startswith("round trip min/p50/p95/p99/max = ")


def test_ping_by_a_wrong_number_says_whose_it_is_and_exits_1() -> None:
    refusal = bytes((9, 0, 3)) + bytes(29)
    with tcp_responder([refusal, refusal]) as port:
        args = ("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0", "--raida-id", "7")
        done = run(*args)
    assert done.returncode == 1
    assert "3 INVALID_RAIDA_ID from" in done.stdout
    assert "2 sent, 2 answered (2 refused), 0 timeouts, 0% loss" in done.stdout
    assert done.stderr == (
        f"raida-uring: 127.0.0.1:{port} is RAIDA 9, not 7: ask with --raida-id 9\n"
    )


def test_ping_for_a_health_check_takes_any_answer() -> None:
    """A container's HEALTHCHECK does not know the RAIDA id."""
    with tcp_responder([bytes((9, 0, 3)) + bytes(29)]) as port:
        args = ("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1", "--raida-id", "7")
        assert run(*args, "--any-answer").returncode == 0
        assert run(*args, "--any-answer").returncode == 1  # nobody is there any more


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (7, "does not serve that coin (7 INVALID_COIN_ID): see --coin-id"),
        (160, "refused the echo with status 160 REQUEST_RATE"),
    ],
)
def test_ping_that_is_refused_is_no_success(status: int, told: str) -> None:
    with tcp_responder([bytes((0, 0, status)) + bytes(29)]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1")
    assert (done.returncode, done.stderr) == (1, f"raida-uring: 127.0.0.1:{port} {told}\n")


def test_ping_refused_once_is_a_success() -> None:
    with tcp_responder([bytes((0, 0, 160)) + bytes(29), b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert done.returncode == 0
    assert "2 sent, 2 answered (1 refused)" in done.stdout


def test_ping_counts_timeouts() -> None:
    with udp_responder(silent_to=2) as port:
        done = run("ping", f"127.0.0.1:{port}", "-c", "4", "-i", "0", "-W", "0.2")
    assert done.returncode == 0
    assert f"no answer from 127.0.0.1:{port}: seq=2 within 0.2 s" in done.stdout
    assert "4 sent, 3 answered, 1 timeouts, 25% loss" in done.stdout


def test_ping_without_any_answer_exits_1() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = run("ping", f"127.0.0.1:{port}", "-c", "1", "-W", "0.1")
    assert done.returncode == 1
    assert "1 sent, 0 answered, 1 timeouts, 100% loss" in done.stdout
    assert "round trip" not in done.stdout


def test_ping_over_tcp_reads_replies_in_pieces() -> None:
    with tcp_responder([b"", b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert done.returncode == 0
    assert "2 sent, 2 answered" in done.stdout


def test_ping_tells_a_cut_reply_from_an_answer() -> None:
    cut = answer_to(bytes(50))[:-1]
    with tcp_responder([cut]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "1")
    assert done.returncode == 1
    assert "seq=1 reply has 31 bytes, its header says 32" in done.stdout
    assert "1 sent, 0 answered, 0 timeouts, 1 errors, 100% loss" in done.stdout


def test_ping_reports_a_closed_port() -> None:
    require_ipv6()
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as unused:
        unused.bind(("::1", 0))  # bound, not listening: connections are refused
        port = unused.getsockname()[1]
        done = run("ping", "--tcp", f"[::1]:{port}", "-c", "1")
    assert done.returncode == 1
    assert f"no answer from [::1]:{port}: seq=1 Connection refused" in done.stdout


def test_interrupted_ping_still_sums_up() -> None:
    with udp_responder() as port:
        process = subprocess.Popen(
            [*PROGRAM, "ping", f"127.0.0.1:{port}", "-i", "3600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            assert "seq=1" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    assert "1 sent, 1 answered, 0 timeouts, 0% loss" in output


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (50000, "RAIDA 0 (from the port)"),
        (50024, "RAIDA 24 (from the port)"),
        (50025, "RAIDA 0 (assumed; --raida-id tells)"),
    ],
)
def test_ping_takes_the_raida_id_from_the_port(port: int, expected: str) -> None:
    # Whether anything answers there does not matter.
    done = run("ping", f"127.0.0.1:{port}", "-c", "1", "-W", "0.1")
    assert done.stdout.splitlines()[0].endswith(expected)


@pytest.mark.parametrize(
    ("args", "peer"),
    [
        ("127.0.0.1", "127.0.0.1:50000 over UDP, RAIDA 0 (from the port)"),
        ("[::1]", "[::1]:50000 over UDP, RAIDA 0 (from the port)"),
        ("127.0.0.1 --raida-id 7", "127.0.0.1:50007 over UDP, RAIDA 7 (as told)"),
        ("127.0.0.1 --raida-id 200", "127.0.0.1:50000 over UDP, RAIDA 200 (as told)"),
    ],
)
def test_ping_needs_no_port(args: str, peer: str) -> None:
    # Whether anything answers there does not matter.
    done = run("ping", *args.split(), "-c", "1", "-W", "0.1")
    assert done.stdout.splitlines()[0] == f"PING {peer}"


def test_ping_learns_whose_port_it_is() -> None:
    """Only without --raida-id: with it, another node's answer is a fault."""
    refusal = bytes((9, 0, 3)) + bytes(29)
    with tcp_responder([refusal, b"", b""]) as port:
        done = run("ping", "--tcp", f"127.0.0.1:{port}", "-c", "2", "-i", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == f"PING 127.0.0.1:{port} over TCP, RAIDA 9 (as it says)"
    assert "2 sent, 2 answered, 0 timeouts, 0% loss" in done.stdout


@pytest.fixture
def two_addresses(tmp_path: Path) -> list[str]:
    """A command's prefix under which the name `both.test` is ::1, and then 127.0.0.1."""
    require_ipv6()
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 both.test\n127.0.0.1 both.test\n")
    mounting = ["unshare", "--mount", "sh", "-c"]
    mounting.append('mount --bind "$0" /etc/hosts && exec "$@"')
    tried = execute(*mounting, hosts, "getent", "ahosts", "both.test")
    if "::1" not in tried.stdout or "127.0.0.1" not in tried.stdout:
        pytest.skip(f"no mount namespace, or no IPv6: {tried.stderr}")
    return [*mounting, str(hosts), sys.executable]


def test_ping_tries_every_address_of_a_name(two_addresses: list[str]) -> None:
    with udp_responder() as port:
        done = execute(*two_addresses, "-m", "raida_uring", "ping", f"both.test:{port}", "-c", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"[::1]:{port}: Connection refused" in done.stdout
    assert f"250 SUCCESS from 127.0.0.1:{port}: seq=1" in done.stdout
    assert "1 sent, 1 answered, 0 timeouts, 0% loss" in done.stdout


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_clients_try_every_address_of_a_name(
    two_addresses: list[str], transport: str, kind: str
) -> None:
    script = (
        "import asyncio, inspect, sys\n"
        "from raida_uring.client import AsyncClient, Client, calls\n"
        "async def ask(kind, port, transport):\n"
        "    node = kind('both.test', port, raida_id=0, transport=transport)\n"
        "    answer = node.ask(calls.Call(0, 0, b'', frozenset((250,)), lambda *_: 0))\n"
        "    return (await answer if inspect.isawaitable(answer) else answer).status\n"
        f"print(asyncio.run(ask({kind}, int(sys.argv[1]), {transport!r})))"
    )
    with udp_responder() if transport == "udp" else tcp_responder([b""]) as port:
        done = execute(*two_addresses, "-c", script, port)
    assert (done.stdout, done.stderr) == ("250\n", "")


def test_a_silent_resolver_delays_no_client(tmp_path: Path) -> None:
    """In its own namespaces, with a name server that never answers."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    script = (
        "import asyncio, socket, sys, time\n"
        "from raida_uring.client import AsyncClient, Client, calls, request\n"
        "from raida_uring.cli.main import main\n"
        "dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); dns.bind(('127.0.0.53', 53))\n"
        "async def ask():\n"
        "    for transport in ('udp', 'tcp'):\n"
        "        node = AsyncClient('raida7.test', 50007, raida_id=7, timeout_s=0.3,\n"
        "                           transport=transport)\n"
        "        try: await node.ask(calls.echo())\n"
        "        except TimeoutError: print('late')\n"
        "def wait(transport):\n"
        "    node = Client('raida7.test', 50007, raida_id=7, timeout_s=0.3, transport=transport)\n"
        "    for ask in (lambda: node.ask(calls.echo()), node.vote, lambda: request(\n"
        "            'raida7.test', 50007, bytes(50), timeout_s=0.3, transport=transport)):\n"
        "        try: ask()\n"
        "        except TimeoutError: print('late')\n"
        "begin = time.monotonic(); asyncio.run(ask()); wait('udp'); wait('tcp')\n"
        "print(main(['ping', 'raida7.test', '-W', '0.3', '-c', '1']))\n"
        "print(time.monotonic() - begin < 8)"  # one look-up that waits for its end takes 10 s
    )
    mounting = (
        'ip link set lo up && mount --bind "$0/resolv.conf" /etc/resolv.conf && '
        'mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@"'
    )
    unshare = ("unshare", "--mount", "--net", "sh", "-c", mounting)
    done = execute(*unshare, tmp_path, sys.executable, "-c", script)
    if done.returncode in (1, 127) and "Traceback" not in done.stderr:
        pytest.skip(f"no namespaces, or no ip (Debian package iproute2): {done.stderr}")
    assert done.stdout == "late\n" * 8 + "2\nTrue\n", done.stderr
    assert "raida7.test: timed out: the addresses of the name" in done.stderr


def test_answer_is_what_the_protocol_says() -> None:
    """Check the responder's own bytes."""
    request = protocol.build_request(0, 0, raida_id=3, echo=9, challenge=b"twelve bytes")
    reply = protocol.parse_reply(answer_to(request))
    assert (reply.raida_id, reply.status, reply.server_time_us) == (3, 250, 5)
    assert reply.echo == b"\0\x09"
    assert reply.challenge == request[32:48]
