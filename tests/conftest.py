"""Settings shared by every test: Hypothesis profiles, a watchdog against hangs, backends."""

import faulthandler
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.net import PATIENCE
from tests.support.node import BACKENDS, backend_refusal, using_backend

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


def pytest_configure() -> None:
    """Keep the real stderr: pytest's capture would swallow the watchdog's stacks. Heed SIGINT, also
    in a job in the background, which ignores it: programs that tests interrupt inherit that."""
    global _stderr_fd
    _stderr_fd = os.dup(2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
