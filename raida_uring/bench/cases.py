"""The requests of the benchmark, and the goals of each case.

Pure: no I/O. Source of the bytes: docs/wire.md. They are built here from the offsets of `layout`
and not by the functions of the protocol package, so that a mistake in those cannot go unnoticed.
"""

import zlib
from dataclasses import dataclass

from raida_uring.bench.load import Exchange, Transport
from raida_uring.protocol import layout

RAIDA_ID = 14
COIN_ID = 6
SUCCESS = 250
VERSION_TEXT = b"20250323"
SPIN_GROUP = 15
SPIN_COMMAND = 250
WORK_COMMAND = 251
NAP_COMMAND = 252

_RANDOM = bytes(range(layout.CHALLENGE_RANDOM_SIZE))
CHALLENGE = _RANDOM + zlib.crc32(_RANDOM).to_bytes(4, "big")
EXECUTION_TIME = (
    layout.REPLY_SMALL_TIME_AT,
    layout.REPLY_SMALL_TIME_AT + layout.REPLY_TIME_SIZE,
)


def request_header(group: int, command: int, body_bytes: int) -> bytearray:
    """Return the header of a type 0 request."""
    header = bytearray(layout.HEADER_SMALL)
    fields = layout.REQUEST_VERSION, 0, RAIDA_ID, 0, group, command, COIN_ID
    layout.REQUEST_FRONT.pack_into(header, 0, *fields)
    layout.U16.pack_into(header, layout.REQUEST_SMALL_BODY_SIZE_AT, body_bytes)
    return header


def command_exchange(
    group: int, command: int, payload: bytes = b"", status: int = SUCCESS, answer: bytes = b""
) -> Exchange:
    """Return a type 0 exchange with challenge and CRC. answer: the reply's payload."""
    body = CHALLENGE + payload + layout.TERMINATOR
    reply_body = answer + layout.TERMINATOR if answer else b""
    reply = bytearray(layout.HEADER_SMALL)
    reply[layout.REPLY_RAIDA_AT] = RAIDA_ID
    reply[layout.REPLY_STATUS_AT] = status
    reply[layout.REPLY_GROUP_AT] = group
    layout.U16.pack_into(reply, layout.REPLY_SMALL_FRAMES_AT, 1)
    reply[layout.REPLY_SMALL_CHALLENGE_AT :] = CHALLENGE
    sizes = slice(layout.REPLY_BODY_SIZE_AT, layout.REPLY_PREFIX_SIZE)
    reply[sizes] = len(reply_body).to_bytes(3, "big")
    return Exchange(
        request=bytes(request_header(group, command, len(body))) + body,
        request_tag_offset=layout.REQUEST_SMALL_ECHO_AT,
        reply=bytes(reply) + reply_body,
        reply_tag_offset=layout.REPLY_SMALL_ECHO_AT,
        ignore=(EXECUTION_TIME,),
    )


def vote_exchange() -> Exchange:
    """Return a 497-byte integrity vote of all-zero roots, which a node without roots confirms."""
    nonce = bytes(range(layout.VOTE_NONCE_SIZE))
    return Exchange(
        request=bytes((layout.VOTE_FIRST_BYTE,)) + bytes(layout.ROOTS_SIZE) + nonce,
        request_tag_offset=layout.VOTE_NONCE_AT,
        reply=b"\x01" + nonce,
        reply_tag_offset=layout.VOTE_REPLY_NONCE_AT,
    )


ECHO = command_exchange(0, 0)
VERSION = command_exchange(0, 1, answer=VERSION_TEXT)
VOTE = vote_exchange()
SPIN = command_exchange(SPIN_GROUP, SPIN_COMMAND)
WORK = command_exchange(SPIN_GROUP, WORK_COMMAND)
NAP = command_exchange(SPIN_GROUP, NAP_COMMAND)


@dataclass(frozen=True, slots=True)
class Goal:
    """`contender` serves at least `ratio_min` times the requests per CPU-second of `peer`."""

    peer: str
    ratio_min: float
    contender: str = "node"


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: the same exchange with every contender in turn."""

    name: str
    title: str
    transport: Transport
    exchange: Exchange
    contenders: tuple[str, ...]
    goals: tuple[Goal, ...]
    syscalls_max: float | None = None  # of the node's I/O thread, per request
    window: int = 64  # requests outstanding (UDP), connections at once (TCP)


# With a handler in Python in place of the version command: the default number of workers, and one.
# Handlers that hold the GIL gain nothing from more workers, and the server has one core here.
_PYTHON_NODES = ("node-python", "node-python-1w")
NODES = ("node", "node-nolog", "node-epoll", *_PYTHON_NODES)
_ALL = ("node", "node-epoll", "uring", "mmsg", "asyncio", "uvloop")
_EPOLL_GOAL = Goal("mmsg", 0.90, contender="node-epoll")

CASES = (
    Case(
        name="udp-echo",
        title="UDP echo, answered on the I/O thread",
        transport="udp",
        exchange=ECHO,
        contenders=_ALL,
        # The last goal checks the yardstick itself: comparing with a slow one would prove nothing.
        goals=(Goal("uring", 0.90), _EPOLL_GOAL, Goal("mmsg", 0.85, contender="uring")),
        syscalls_max=0.15,
    ),
    Case(
        name="udp-vote",
        title="UDP integrity vote, answered on the I/O thread",
        transport="udp",
        exchange=VOTE,
        contenders=_ALL,
        goals=(Goal("uring", 0.90), _EPOLL_GOAL),
        syscalls_max=0.15,
    ),
    Case(
        name="udp-version",
        title="UDP version command, answered on the I/O thread",
        transport="udp",
        exchange=VERSION,
        contenders=_ALL,
        goals=(Goal("uring", 0.80), _EPOLL_GOAL),
        syscalls_max=0.15,
    ),
    Case(
        name="udp-python",
        title="UDP version command by a handler in Python (peers answer inline)",
        transport="udp",
        exchange=VERSION,
        contenders=(*_PYTHON_NODES, "uring", "asyncio", "uvloop"),
        goals=tuple(
            Goal(peer, ratio_min, contender)
            for contender in _PYTHON_NODES
            for peer, ratio_min in (("uring", 0.65), ("uvloop", 1.10))
        ),
    ),
    Case(
        name="tcp-echo",
        title="TCP echo, one request per connection",
        transport="tcp",
        exchange=ECHO,
        contenders=_ALL,
        goals=(Goal("uring", 0.85),),
    ),
    Case(
        name="log-cost",
        title="UDP version command, with the default log of requests and without",
        transport="udp",
        exchange=VERSION,
        contenders=("node", "node-nolog"),
        goals=(Goal("node-nolog", 0.90),),
    ),
)

# Many workers and one, on all cores: contention must not cost more than the workers gain.
WORKERS_CASE = "workers"
WORKERS_MANY = 8
WORKERS_RATIO_MIN = 0.95
WORKERS_NAP_RATIO_MIN = 4.0  # handlers that wait gain from more workers

# Votes at a fixed rate while every worker of the node spins in Python: not a comparison.
SPIN_CASE = "vote-beside-spin"
SPIN_WORKERS = 4
SPIN_VOTES_PER_S = 5000
SPIN_P99_US_MAX = 1000

# Votes at the same rate beside floods of every command that is answered in C.
VOTES_CASE = "votes"
