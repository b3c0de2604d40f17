"""An upgrade until the successor serves.

What must hold: if the successor fails to start, the old node goes on unchanged, and the command
that asked for the upgrade says why.
"""

import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from raida_uring import __version__
from raida_uring.admin.client import NodeError, ask, result_of
from tests.support.command_line import PROGRAM, environment, run
from tests.support.net import PATIENCE
from tests.support.node import eventually, take_free_descriptors, told
from tests.support.store import make_store, table_of
from tests.support.upgrade import (
    ANSWER_TIMEOUT_S,
    CAUSES,
    PersistentClient,
    answers,
    child_of,
    fail,
    gone,
    says,
    serving_process,
    slow_to_start,
    upgradable,
    upgrade,
)


@pytest.mark.any_backend
def test_a_node_without_descriptors_goes_on(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        process = psutil.Process(node.process.pid)
        limits = take_free_descriptors(process)
        node.signal(signal.SIGUSR2)
        says(node, "no upgrade, this node goes on: cannot start the successor: Too many open files")
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
        assert answers(node)
        upgrade(node)


@pytest.mark.any_backend
def test_a_successor_that_fails_changes_nothing(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        client = PersistentClient(node.endpoint)
        client.start()
        config = tmp_path / "node.toml"
        good = config.read_text()
        config.write_text("[server]\nraida_id = 99\n")
        node.signal(signal.SIGUSR2)
        eventually(
            lambda: "no upgrade, this node goes on" in node.stderr(),
            30 * PATIENCE,
            what=node.stderr,
        )
        config.write_text(good)
        answers = client.answers
        eventually(lambda: client.answers > answers)
        assert node.process.poll() is None
        client.finish()


@pytest.mark.any_backend
def test_the_command_says_why_not(tmp_path: Path) -> None:
    with upgradable(tmp_path) as node:
        config = tmp_path / "node.toml"
        good = config.read_text()
        (tmp_path / "good.toml").write_text(good)
        config.write_text("[server]\nraida_id = 99\n")
        done = run("upgrade", "--config", "good.toml", cwd=tmp_path)
        assert done.returncode == 2
        assert re.search(
            r"the successor ended with status 2 before it served: .*raida_id = 99: must be",
            done.stderr,
        )
        assert node.process.poll() is None


def command(directory: Path) -> "subprocess.Popen[str]":
    """`raida-uring upgrade`, started."""
    return subprocess.Popen(
        [*PROGRAM, "upgrade", "--socket", str(directory / "admin.sock")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.any_backend
def test_asked_twice_at_once(tmp_path: Path) -> None:
    """One upgrade answers both."""
    with upgradable(tmp_path) as node:
        before = serving_process(node)
        both = [command(tmp_path), command(tmp_path)]
        said = {one.communicate(timeout=60 * PATIENCE) for one in both}
        assert [one.returncode for one in both] == [0, 0], said
        served = f"process {serving_process(node)} serves, {before} leaves"
        assert said == {(f"{__version__} \u2192 {__version__}: {served}\n", "")}
        says(node, "the predecessor is gone")
        assert node.stderr().count("upgrade: starting the successor") == 1
        assert answers(node)


@pytest.mark.any_backend
def test_reload_and_watchdog_while_the_successor_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with slow_to_start(tmp_path) as node:
        told(node.notify)
        node.signal(signal.SIGHUP)
        says(node, "reloaded: ")
        seen: list[str] = []

        def fed() -> bool:
            seen.extend(told(node.notify))
            return seen.count("WATCHDOG=1") >= 3

        eventually(fed, 20 * PATIENCE)
        assert result_of(tmp_path / "admin.sock", "status")["phase"] == "serving"
        assert serving_process(node) == node.process.pid
        (tmp_path / "hold").unlink()

        def gone_by_now() -> bool:
            told(node.notify)  # or it fills, and the node waits for it
            return "the predecessor is gone" in node.stderr()

        eventually(gone_by_now, 30 * PATIENCE, what=node.stderr)


@pytest.mark.any_backend
def test_a_reload_while_the_successor_starts_reaches_both(tmp_path: Path) -> None:
    """It has read the file already: a later change by an operator must not be lost."""
    path = tmp_path / "node.toml"
    with slow_to_start(tmp_path) as node:
        eventually((tmp_path / "waits").exists, 30 * PATIENCE)
        text = path.read_text()
        path.write_text(text.replace("[network]\n", "[network]\nwait_max_ms = 777\n"))
        node.signal(signal.SIGHUP)
        says(node, "reloaded: [network] wait_max_ms")
        (tmp_path / "hold").unlink()
        says(node, "reloaded: [network] wait_max_ms", 2)
        says(node, "the predecessor is gone")


@pytest.mark.any_backend
def test_a_stop_is_heeded_while_the_successor_starts(tmp_path: Path) -> None:
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        asked = ask(tmp_path / "admin.sock", "upgrade")
        assert "phase" in next(asked)  # it waits for the same successor
        assert node.terminate(8 * PATIENCE) == 0
        assert gone(successor.pid)
        with pytest.raises(NodeError, match="this node was told to stop meanwhile"):
            list(asked)
        assert "no upgrade" in node.stderr()


@pytest.mark.any_backend
def test_a_drain_is_heeded_while_the_successor_starts(tmp_path: Path) -> None:
    """It answers every request that it has taken meanwhile."""
    with slow_to_start(tmp_path) as node:
        result_of(tmp_path / "admin.sock", "drain")
        assert node.process.wait(8 * PATIENCE) == 0
        assert "no upgrade" in node.stderr()


@pytest.mark.any_backend
def test_a_successor_that_is_late_is_given_up(tmp_path: Path) -> None:
    with slow_to_start(tmp_path, upgrade={"start_timeout_s": 1}) as node:
        says(node, "the successor does not serve after 1 s ([upgrade] start_timeout_s)")
        assert answers(node)


def test_a_successor_that_stops_at_once_leaves_the_sockets_alone(tmp_path: Path) -> None:
    """They are its predecessor's: no filter may stay on them."""
    with slow_to_start(tmp_path) as node:
        successor = child_of(node)
        node.signal(signal.SIGSTOP)  # it must not hear of it before the stop
        (tmp_path / "hold").unlink()
        says(node, "serving on", 2)
        successor.terminate()
        eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)
        node.signal(signal.SIGCONT)
        says(node, "ended with status 0 before it served: it was told to stop")
        assert answers(node)
        assert "STOPPING=1" not in told(node.notify)  # the service does not


@pytest.mark.any_backend
def test_a_successor_that_fails_before_its_turn_says_so(tmp_path: Path) -> None:
    """Its predecessor does not hand over to one that is about to end. What a flush that failed has
    left on the disk only a start can find out: then the predecessor ends as well."""
    store = make_store(tmp_path / "store")
    tables = table_of(store)
    with slow_to_start(tmp_path, store=tables) as node:
        for times, what in enumerate(CAUSES, 1):
            successor = child_of(node)
            node.signal(signal.SIGSTOP)  # it must not hear that the other one serves
            (tmp_path / "hold").unlink(missing_ok=True)
            says(node, "serving on", 1 + times)
            fail(node, what)
            eventually(lambda: gone(successor.pid), ANSWER_TIMEOUT_S)  # noqa: B023  called at once
            node.signal(signal.SIGCONT)
            if what == "loop":
                says(
                    node, "ended with status 1 before it served: it has failed, see the log", times
                )
                assert CAUSES[what] in node.stderr()
                assert answers(node)
            if times < len(CAUSES):
                node.signal(signal.SIGUSR2)
            else:
                assert node.process.wait(ANSWER_TIMEOUT_S) == 1
        assert "upgrade: process" not in node.stderr()
        assert node.stderr().count(CAUSES["store"]) >= 2


@pytest.mark.any_backend
@pytest.mark.parametrize(("what", "cause"), CAUSES.items())
def test_a_waiting_upgrade_command_reports_what_has_failed(
    tmp_path: Path, what: str, cause: str
) -> None:
    store = make_store(tmp_path / "store")
    tables = table_of(store)
    with slow_to_start(tmp_path, store=tables) as node:
        asked = ask(tmp_path / "admin.sock", "upgrade")
        assert "phase" in next(asked)
        fail(node, what)
        with pytest.raises(NodeError, match=f"node has failed meanwhile: .*{cause}"):
            list(asked)
        assert node.process.wait(ANSWER_TIMEOUT_S) == 1
