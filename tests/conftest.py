"""Settings shared by every test: Hypothesis profiles, a watchdog against hangs, backends, and the
workers of pytest-xdist."""

import contextlib
import errno
import faulthandler
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from raida_uring.admin.client import default_path
from tests.support.net import PATIENCE
from tests.support.node import BACKENDS, backend_refusal, using_backend
from tests.support.surroundings import settle, temporary_directory

# Several times the slowest test; a hang must end CI with stacks, not silence.
HANG_TIMEOUT_S = 150.0 * PATIENCE

# "ci" draws the same examples on every machine; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", settings.get_profile("ci"), derandomize=False, max_examples=2000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_stderr_fd = -1
_place: Path | None = None  # what is made in the course of the run, but for the checkout


# Before pytest's own, which reads the option.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr: pytest's capture would swallow the watchdog's stacks. In the first
    process, make all that follows independent of who has started it."""
    global _stderr_fd
    _stderr_fd = os.dup(2)
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is None:
        settle()
        _make_place(config)
    else:
        _become_worker(config, given)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node: Any) -> None:
    """Send a worker the environment that it is to use."""
    node.workerinput["environ"] = dict(os.environ)


def _become_worker(config: pytest.Config, given: dict[str, Any]) -> None:
    """Use the directory that the first process made. Programs that tests start must not see
    pytest-xdist's PYTHONPATH, nor LINES and COLUMNS, which readline hands to a child."""
    os.environ.clear()
    os.environ.update(given["environ"])
    tempfile.tempdir = os.environ["TMPDIR"]
    config.option.basetemp = str(Path(tempfile.tempdir) / given["workerid"])


def _make_place(config: pytest.Config) -> None:
    """Make the directory that everything uses as /tmp from here on, other users included, so that
    whatever they leave is removed with it."""
    global _place
    _place = Path(tempfile.mkdtemp(prefix="raida-", dir=temporary_directory()))
    _place.chmod(0o1777)
    os.environ["TMPDIR"] = tempfile.tempdir = str(_place)
    if config.option.basetemp is None:
        config.option.basetemp = str(_place / "test")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leave nothing in /tmp, unless there is a failure to be understood."""
    if _place is not None:
        _remove_dead_sockets()
    if _place is not None and exitstatus != pytest.ExitCode.TESTS_FAILED:
        shutil.rmtree(_place, ignore_errors=True)


def _remove_dead_sockets() -> None:
    """Remove the admin sockets that killed nodes have left in this user's directory."""
    directory = default_path(0).parent
    for path in directory.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                path.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()  # if it is empty


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the files of failed tests are."""
    if _place is not None and _place.exists():
        terminalreporter.write_line(f"files of failed tests: {_place}")


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print every thread's stack and exit if one test takes longer than HANG_TIMEOUT_S, or than
    its own mark `hang_timeout_s` says."""
    mark = request.node.get_closest_marker("hang_timeout_s")
    timeout_s = HANG_TIMEOUT_S if mark is None else mark.args[0] * PATIENCE
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=_stderr_fd)
    yield
    faulthandler.cancel_dump_traceback_later()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that asks for `backend` runs on each of them, once if marked `any_backend`."""
    if "backend" in metafunc.fixturenames:
        any_backend = metafunc.definition.get_closest_marker("any_backend") is not None
        names = ("auto",) if any_backend else BACKENDS
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend of every node that the test starts."""
    name: str = request.param
    if name != "auto" and (refusal := backend_refusal(name)) is not None:
        pytest.skip(refusal)
    with using_backend(name):
        yield name
