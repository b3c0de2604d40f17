"""A user without rights under limits of locked memory, which some kernels charge rings to.

What must hold under any limit: the node serves, on a full ring, on one with smaller queues, or on
epoll; its log says which and why, and a node that follows another at once gets the same.
"""

import json
import re
import resource
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.command_line import output_of
from tests.support.confine import default_directory
from tests.support.net import tcp_ask, udp_ask
from tests.support.node import config_text, daemon
from tests.support.wire import ECHO_COMMAND, request, status

pytestmark = pytest.mark.any_backend

STARTS: Final = 5
AMPLE_BYTES: Final = 4 << 20

# That user may be unable to read this interpreter's files, or the configuration: all is loaded
# first, and nothing executed after.
ORDINARY: Final = """
import sys
from raida_uring import config, handlers, log
from raida_uring.node import daemon
from raida_uring.node import server
from tests.support.confine import become_ordinary

chosen = config.load(sys.argv[2])
log.configure(chosen.log.level)
handlers.load(chosen.handlers.modules)
become_ordinary(memlock_bytes={memlock_bytes})
"""
SERVE: Final = "daemon.serve(chosen)"
RESTART: Final = f"""
import json
tiers = []
for _ in range({STARTS}):
    node = server.Server(chosen)
    node.start()
    tiers.append(node.tier)
    node.stop()
print(json.dumps(tiers))
"""


def unlimited() -> int:
    """No limit, or the highest that root may set here; skips where that is none to speak of."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limits[0], resource.RLIM_INFINITY))
    except ValueError:
        if limits[1] < AMPLE_BYTES:
            pytest.skip(f"a hard limit of {limits[1]} bytes needs CAP_SYS_RESOURCE to be raised")
        return limits[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
    return resource.RLIM_INFINITY


def ordinary(memlock_bytes: int, what: str) -> list[str]:
    return [sys.executable, "-c", ORDINARY.format(memlock_bytes=memlock_bytes) + what]


@pytest.mark.parametrize(
    "memlock_bytes",
    [64 << 10, 1 << 20, resource.RLIM_INFINITY],
    ids=["64KiB", "1MiB", "unlimited"],
)
def test_says_what_it_got_and_serves(tmp_path: Path, memlock_bytes: int) -> None:
    if memlock_bytes == resource.RLIM_INFINITY:
        memlock_bytes = unlimited()
    with daemon(tmp_path, command=ordinary(memlock_bytes, SERVE)) as node:
        assert status(udp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        assert status(tcp_ask(node.endpoint, request(ECHO_COMMAND))) == 250
        log = node.stderr()
        assert node.terminate() == 0
    shutil.rmtree(default_directory(node.process.pid), ignore_errors=True)
    told = re.search(r"serving on \S+: (.*)", log)
    assert told, log
    if told[1].startswith("epoll"):
        assert memlock_bytes == 64 << 10, log  # of the three only this holds no ring at all
        assert "the memlock limit is too low (64 KiB): raise LimitMEMLOCK=" in told[1]
    elif "lack of locked memory" in told[1]:
        assert memlock_bytes == 1 << 20, log
        assert re.search(r"warning .*smaller queues.*memlock limit is too low \(1 MiB\)", log)
    else:
        assert re.fullmatch("io_uring, (DEFER|COOP)_TASKRUN", told[1]), log
        assert "warning" not in log.lower(), log


@pytest.mark.parametrize("memlock_bytes", [512 << 10, 1 << 20, 2 << 20])
def test_each_of_many_starts_gets_what_the_first_got(tmp_path: Path, memlock_bytes: int) -> None:
    """The locked memory of a closed ring comes back only later."""
    path = tmp_path / "node.toml"
    path.write_text(config_text({}))
    tiers = json.loads(output_of(*ordinary(memlock_bytes, RESTART), "--config", path))
    assert len(tiers) == STARTS
    assert len(set(tiers)) == 1, tiers
    assert tiers[0].startswith("io_uring"), tiers
