"""The command that the log suggests to try a node with, as it is to be typed."""

import os
import shlex
import shutil
import sys
from typing import Final

from raida_uring.addresses import format_endpoint
from raida_uring.config import ServerTable

# What `ping` assumes: this coin, and port 50000 + the RAIDA's number.
COIN_ID: Final = 6
PORT_OF_FIRST: Final = 50000


def ping_command(asked: ServerTable, endpoint: tuple[str, int]) -> str:
    """A `ping` that the node answers. endpoint: host and port that it listens on."""
    hint = f"{_program()} ping {_reachable(endpoint)}"
    if endpoint[1] != PORT_OF_FIRST + asked.raida_id:
        hint += f" --raida-id {asked.raida_id}"
    return hint if asked.coin_id == COIN_ID else f"{hint} --coin-id {asked.coin_id}"


def _reachable(endpoint: tuple[str, int]) -> str:
    """The endpoint as a client on this machine may name it."""
    host, port = endpoint
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
    return format_endpoint(loopback.get(host, host), port)


def _program() -> str:
    """How this program was started: it may be where no shell looks for programs."""
    started = sys.argv[0]
    if os.path.basename(started) == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m raida_uring"
    found = shutil.which("raida-uring")
    is_found = found is not None and os.path.realpath(found) == os.path.realpath(started)
    return "raida-uring" if is_found or started in ("", "-c") else shlex.quote(started)
