"""`raida-uring probe` on the real kernel, whole and with parts of it refused.

What must hold: the probe ends with a verdict, leaves nothing open, and names the cause of a
refusal; a node then does what the probe says.
"""

import errno
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from raida_uring import config
from raida_uring.node import probe
from raida_uring.node.upgrade import ENVIRONMENT
from tests.support.command_line import PROGRAM, REPOSITORY, environment, execute, run_script
from tests.support.confine import IO_URING_CALLS
from tests.support.net import tcp_ask, udp_ask
from tests.support.node import assert_refuses_to_start, config_text, daemon, running_node
from tests.support.node import confined as confined_serve
from tests.support.wire import ECHO_COMMAND, request, status
from tests.unit.test_kernel import FEATURES, LIMITS, SCHEMA_1, assert_shaped

pytestmark = pytest.mark.any_backend

PROBE: Final = (*PROGRAM, "probe")

# Not in Python, and not the same everywhere.
EPOLL_CREATE: Final = {"x86_64": 291, "aarch64": 20}
MEMFD_CREATE: Final = {"x86_64": 319, "aarch64": 279}


def confined(how: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Probe in a process that has executed `how`, calls of support/confine.py.

    All modules are loaded, and a ring was used, before anything is taken away.
    """
    code = (
        "import contextlib, io, sys; from raida_uring.cli.main import main; "
        "from tests.support.confine import *\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['probe', '--json'])\n"
        f"{how}; sys.exit(main(['probe', *sys.argv[1:]]))"
    )
    return run_script(code, *options)


def probed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON that a probe printed; its exit status must be the one it states."""
    assert done.stderr == ""
    shown: dict[str, Any] = json.loads(done.stdout)
    assert_shaped(shown, SCHEMA_1)
    assert tuple(feature["key"] for feature in shown["features"]) == FEATURES
    assert tuple(limit["key"] for limit in shown["limits"]) == LIMITS
    assert done.returncode == shown["verdict"]["exit_status"]
    return shown


def by_key(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in rows}


def test_says_what_the_node_then_does() -> None:
    found = probe.probe(config.embedded_default())
    with running_node() as node:
        assert node.server.tier == found.verdict.tier
    assert (found.verdict.backend, found.verdict.exit_status) == ("uring", 0)
    assert found.refusal is None
    assert all(feature.works for feature in found.features if feature.use in ("needed", "base"))


def test_network_that_is_down() -> None:
    """The kernel's features do not depend on an interface, and neither does what the node does."""
    how = "leave_network()"
    if run_script(f"from tests.support.confine import *; {how}").returncode != 0:
        pytest.skip("no network namespace: unshare(CLONE_NEWNET) is not permitted")
    shown = probed(confined(how, "--json"))
    assert shown["verdict"]["backend"] == "uring"
    assert by_key(shown["features"])["mmsg"]["works"]


REFUSALS: Final = {
    "nothing": "None",
    "defer_taskrun": "refuse_ring_flags(DEFER_TASKRUN)",
    "setup": f"refuse_system_call({IO_URING_CALLS['io_uring_setup']}, {errno.EPERM})",
    "enter": f"refuse_system_call({IO_URING_CALLS['io_uring_enter']}, {errno.ENOSYS})",
}


@pytest.mark.parametrize("configured", ["auto", "uring", "epoll"])
@pytest.mark.parametrize("refused", REFUSALS)
def test_serve_starts_as_probed(tmp_path: Path, refused: str, configured: str) -> None:
    """Same configuration, same refusal: same tier, or neither."""
    path = tmp_path / "node.toml"
    network = {"backend": configured}
    path.write_text(config_text({"network": network}))
    shown = probed(confined(REFUSALS[refused], "--json", "--config", str(path)))
    verdict = shown["verdict"]
    assert shown["configured"] == configured
    command = confined_serve(REFUSALS[refused])
    if verdict["backend"] == "none":
        assert (configured, refused in ("setup", "enter")) == ("uring", True)
        assert '"uring" refuses to fall back' in verdict["reason"]
        assert_refuses_to_start(tmp_path, "io_uring refused", command=command, network=network)
        return
    with daemon(tmp_path, command=command, network=network) as node:
        pass  # its log is complete once it has ended
    told = re.search(r"serving on \S+: ([^(\n]*)", node.stderr())
    assert told
    assert told[1].strip() == verdict["tier"]
    if configured == "epoll":
        assert (shown["refusal"], verdict["exit_status"]) == (None, 3)
        assert '[network] backend = "epoll"' in verdict["reason"]
    elif refused == "defer_taskrun":
        assert (verdict["tier"], verdict["exit_status"]) == ("io_uring, COOP_TASKRUN", 0)
        assert "DEFER_TASKRUN fails with EINVAL" in verdict["reason"]


REGISTRATIONS: Final = {  # IORING_REGISTER_*: the feature that a kernel without it lacks
    2: "registered_files",
    11: "restrictions",
    12: "restrictions",  # which come before the ring is enabled
    20: "registered_ring",
    22: "buffer_ring",
}


@pytest.mark.parametrize("operation", REGISTRATIONS)
def test_a_kernel_that_lacks_one_registration(tmp_path: Path, operation: int) -> None:
    """A missing optional feature changes nothing else; without a needed one the node serves on
    epoll and names it."""
    how = f"refuse_registration({operation}, {errno.EINVAL})"
    shown = probed(confined(how, "--json"))
    feature = by_key(shown["features"])[REGISTRATIONS[operation]]
    verdict = shown["verdict"]
    assert (feature["works"], feature["error"]) == (False, "EINVAL")
    with daemon(tmp_path, command=confined_serve(how)) as node:
        assert status(udp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        told = re.search(r"serving on \S+: (.*)", node.stderr())
    assert told
    if feature["use"] == "optional":
        assert verdict["exit_status"] == 0
        assert told[1] == verdict["tier"] == probe.probe(config.embedded_default()).verdict.tier
        return
    assert (verdict["tier"], verdict["exit_status"]) == ("epoll", 3)
    assert shown["refusal"]["cause"] == "too_old"
    assert feature["title"] in verdict["reason"]
    assert told[1].startswith("epoll (io_uring refused: ")
    assert "lacks an io_uring feature" in told[1]


def test_the_option_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(config_text({"network": {"backend": "uring"}}))
    shown = probed(execute(*PROBE, "--json", "--config", path, "--backend", "epoll"))
    assert (shown["configured"], shown["verdict"]["tier"]) == ("epoll", "epoll")
    done = execute(*PROBE, "--backend", "kqueue")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--backend kqueue" in done.stderr


def test_leaves_nothing_behind() -> None:
    def resources() -> tuple[list[str], int]:
        rings = Path("/proc/self/maps").read_text().count("io_uring")
        return sorted(os.listdir("/proc/self/fd")), rings

    probe.probe(config.embedded_default())  # what is loaded once
    before = resources()
    for _ in range(3):
        probe.probe(config.embedded_default())
    assert resources() == before


def test_a_kernel_feature_is_tried_again_and_again_with_one_result() -> None:
    first = probe.probe(config.embedded_default())
    for _ in range(10):
        assert probe.probe(config.embedded_default()).features == first.features


@pytest.mark.parametrize(
    "command",
    [PROBE, (sys.executable, str(REPOSITORY / "tools" / "kernel_probe.py"))],
    ids=["command", "tool"],
)
def test_table_and_json_agree(command: tuple[str, ...]) -> None:
    shown = probed(execute(*command, "--json"))
    done = execute(*command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for row in (*shown["features"], *shown["limits"]):
        assert [line for line in lines if line.startswith(f"  {row['title']} ")], row
    told = " ".join(" ".join(lines).split())
    verdict = shown["verdict"]
    assert told.endswith(f"the node would run on {verdict['tier']} because {verdict['reason']}")


def test_limits_follow_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        config_text(
            {
                "limits": {"connections_max": 100},
                "udp": {"receive_buffer_bytes": 2**30},
                "network": {"backlog": 65535},
            }
        )
    )
    limits = by_key(probed(execute(*PROBE, "--json", "--config", path))["limits"])
    assert 100 < limits["descriptors"]["needs"] < 1000
    assert limits["receive_buffer"]["needs"] == 2**30
    # Both are what the kernel granted, not what a file says it would.
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert limits["backlog"]["has"] == min(65535, somaxconn)
    assert limits["backlog"]["enough"] == (somaxconn >= 65535)


@pytest.mark.parametrize("call", IO_URING_CALLS)
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def test_seccomp_refuses_one_call(call: str, code: int) -> None:
    """Exit status 3; the call that is refused, and the filter as the cause."""
    shown = probed(confined(f"refuse_system_call({IO_URING_CALLS[call]}, {code})", "--json"))
    features = by_key(shown["features"])
    refused = features[call.removeprefix("io_uring_")]
    assert (refused["works"], refused["error"]) == (False, errno.errorcode[code])
    assert shown["circumstances"]["seccomp"] is True
    assert shown["verdict"]["backend"] == shown["verdict"]["tier"] == "epoll"
    assert shown["verdict"]["exit_status"] == 3
    assert call in shown["verdict"]["reason"]
    if code == errno.EPERM or call != "io_uring_setup" or shown["circumstances"]["disabled"] == 0:
        assert shown["refusal"]["cause"] == "seccomp"
        assert "allow" in shown["refusal"]["remedy"]
    # Features that need that call were not tried, rather than found missing; the rest was.
    assert features["multishot_recv"]["works"] is None
    assert features["epoll"]["works"] is True
    assert features["fast_poll"]["works"] is (None if call == "io_uring_setup" else True)


def test_refusal_reads_well() -> None:
    done = confined(f"refuse_system_call({IO_URING_CALLS['io_uring_setup']}, {errno.EPERM})")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    shown = " ".join(" ".join(lines[lines.index("") :]).split())
    assert "io_uring_setup no EPERM 5.1 epoll" in shown
    assert "the node would run on epoll because io_uring_setup fails with EPERM" in shown


@pytest.mark.parametrize("memlock_bytes", [64 << 10, 1 << 20, None])
def test_pitfall_3_9_locked_memory_of_an_ordinary_user(memlock_bytes: int | None) -> None:
    """Features are found under any limit; the ring is judged by what it could lock."""
    shown = probed(confined(f"become_ordinary(memlock_bytes={memlock_bytes})", "--json"))
    assert all(feature["works"] for feature in shown["features"] if feature["use"] == "needed")
    limit = by_key(shown["limits"])["memlock"]
    assert limit["has"] == shown["circumstances"]["memlock_bytes"]
    assert memlock_bytes in (None, limit["has"])
    verdict = shown["verdict"]
    if verdict["backend"] == "epoll":
        assert shown["refusal"]["cause"] == "memlock"
        assert re.search(r"memlock limit is too low \(\d+ [KM]iB\)", verdict["reason"])
        assert "LimitMEMLOCK" in shown["refusal"]["remedy"]
    # Kernels that do not charge rings to it have enough of any.
    assert limit["enough"] == (
        verdict["tier"] in ("io_uring, DEFER_TASKRUN", "io_uring, COOP_TASKRUN")
    )
    assert limit["enough"] or limit["has"] < limit["needs"]


def test_capabilities_of_a_user_namespace_are_none() -> None:
    """As in a rootless container: the kernel asks for those of the first namespace, so the limit
    applies, and is named as the cause where it was in the way."""
    how = f"enter_user_namespace(memlock_bytes={64 << 10})"
    if run_script(f"from tests.support.confine import *; {how}").returncode != 0:
        pytest.skip("no user namespace: unshare(CLONE_NEWUSER) is not permitted")
    shown = probed(confined(how, "--json"))
    around = shown["circumstances"]
    assert (around["privileged"], around["memlock_bytes"]) == (False, 64 << 10)
    assert by_key(shown["limits"])["memlock"]["has"] == 64 << 10
    if shown["verdict"]["backend"] == "epoll":  # some kernels charge no ring to it
        assert shown["refusal"]["cause"] == "memlock", shown["verdict"]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param(
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))",
            "200 descriptors",
            id="descriptors",
        ),
        pytest.param(
            f"refuse_system_call({IO_URING_CALLS['io_uring_setup']}, {errno.EPERM}); "
            f"refuse_system_call({EPOLL_CREATE.get(platform.machine())}, {errno.EPERM})",
            "epoll, eventfd: EPERM",
            id="epoll",
        ),
        pytest.param(
            f"refuse_system_call({MEMFD_CREATE.get(platform.machine())}, {errno.ENOSYS})",
            "ENOSYS",
            id="memfd",
        ),
    ],
)
def test_neither_ring_nor_epoll(how: str, reason: str) -> None:
    verdict = probed(confined(how, "--json"))["verdict"]
    assert (verdict["backend"], verdict["exit_status"]) == ("none", 1)
    assert reason in verdict["reason"]


def test_the_tool_without_the_package() -> None:
    """One line and no verdict: nothing was tried."""
    tool = str(REPOSITORY / "tools" / "kernel_probe.py")
    done = execute(sys.executable, "-I", "-S", tool, "--json")  # the standard library alone
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kernel_probe: the package raida_uring cannot be imported: ")
    assert done.stderr.count("\n") == 1


def test_the_tool_from_anywhere(tmp_path: Path) -> None:
    """It needs no checkout, only a Python that has the package."""
    tool = tmp_path / "probe.py"
    tool.write_bytes((REPOSITORY / "tools" / "kernel_probe.py").read_bytes())
    done = execute(sys.executable, tool, "--json", cwd=tmp_path)
    assert probed(done)["verdict"]["exit_status"] == 0


WITHOUT_DATA_PLANE = (
    "import sys; sys.modules['raida_uring.ffi._native'] = None\n"
    "from raida_uring.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def test_the_data_plane_cannot_be_loaded() -> None:
    done = run_script(WITHOUT_DATA_PLANE, "probe")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("raida-uring: the program is not whole: ")
    assert done.stderr.count("\n") == 1


def test_a_successor_without_data_plane_says_why() -> None:
    """The reason reaches the command that asked for the upgrade, not only the log."""
    predecessor, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with predecessor, channel:
        handed = environment(**{ENVIRONMENT: json.dumps({"channel": channel.fileno()})})
        done = run_script(WITHOUT_DATA_PLANE, "serve", pass_fds=[channel.fileno()], env=handed)
        assert done.returncode == 1
        told = predecessor.recv(1 << 16).decode()
        assert f"raida-uring: {told.removeprefix('failed ')}\n" == done.stderr
