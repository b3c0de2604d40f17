"""What a start is made of, piece by piece; server.py has the order. Thread: control."""

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from raida_uring import remedies
from raida_uring.addresses import Bound
from raida_uring.config import Config, engine_settings
from raida_uring.descriptors import connections_room, raise_descriptor_limit
from raida_uring.errors import EngineError, StartError, passing
from raida_uring.ffi import native, native_command
from raida_uring.handlers import Command, Mode
from raida_uring.handlers.declaration import ECHO_NUMBER
from raida_uring.handlers.node import Node
from raida_uring.log import events
from raida_uring.node.causes import LACK_OF_MEMORY, explain_refusal
from raida_uring.observe import process
from raida_uring.store import Store
from raida_uring.workers.native import NativeWorker
from raida_uring.workers.thread import WorkerThread
from raida_uring.workers.worker import Worker

LANES: Final[Mapping[Mode, int]] = {
    "read": native.CLASS_ORDINARY,
    "slow": native.CLASS_SLOW,
    "write": native.CLASS_WRITE,
}


def limit_connections(config: Config) -> int:
    """`[limits] connections_max`, or as many as the descriptor limit has room for. Raises
    StartError when that is none."""
    limit = raise_descriptor_limit()
    wanted = config.limits.connections_max
    room = connections_room(limit)
    if room < 1:
        raise StartError(
            f"a descriptor limit of {limit} leaves no room for connections: raise LimitNOFILE="
        )
    if wanted > room:
        events.CONNECTIONS_LOWERED.log(wanted=wanted, granted=room, limit=limit)
    return min(wanted, room)


def make_engine(
    config: Config, bound: Iterable[Bound], connections_max: int, *, shared: bool
) -> native.Engine:
    """The data plane with its memory. shared: other processes have the sockets too. Raises
    StartError."""
    listeners = [native.Listener(one.udp.fileno(), one.tcp.fileno(), one.wildcard) for one in bound]
    try:
        return native.Engine(
            listeners,
            engine_settings(config, connections_max) | {"shared_sockets": int(shared)},
        )
    except EngineError as error:
        if error.number == errno.EINVAL:  # the text names the setting
            raise StartError(str(error)) from error
        remedy = remedies.for_node_memory(error.number)
        refused = StartError(f"{error}; {remedy}" if remedy else str(error))
        raise passing(refused, error.number) from error


def set_native(
    engine: native.Engine, config: Config, store: Store | None, keys: Store | None
) -> None:
    """Tell the data plane what the commands that it answers itself are executed on."""
    server = config.server
    facts = native_command.Facts(
        version=server.version.encode("ascii"),
        admin_key=server.admin_key,
        raida_id=server.raida_id,
    )
    engine.set_native(
        None if store is None else store.native,
        None if keys is None else keys.native,
        facts.handle,
    )


def publish(engine: native.Engine, commands: Iterable[Command]) -> None:
    """Tell the data plane the lane of each command, which ones check a secret, and which are
    public."""
    for item in commands:
        # A handler in place of the built-in echo gets the plain ones, too.
        is_echo = item.number == ECHO_NUMBER and item.native
        lane = native.CLASS_ECHO if is_echo else LANES[item.mode]
        engine.set_class(item.group, item.code, lane)
        if item.guesses:
            engine.guard(item.group, item.code)
        if item.public:
            engine.set_public(item.group, item.code)
        if item.native:
            engine.set_native_command(item.group, item.code)


def make_workers(
    config: Config,
    engine: native.Engine,
    commands: Sequence[Command],
    node: Node,
    store: Store | None,
    keys: Store | None,
) -> Iterator[WorkerThread]:
    """The workers of all lanes, not started; those of the writing lanes only with a store.

    keys: has the key coins in place of the store.
    """
    cpus = config.workers.cpus
    ordinary, slow = config.workers.count, config.workers.slow_count
    for index in range(ordinary + slow):
        coins = store.coins() if store is not None and index < ordinary else None
        # A slow handler must not keep a state of the store: its key coins have a view of their own.
        source = store if index >= ordinary and keys is None else keys
        lookup = None if source is None else source.coins()
        yield Worker(engine, index, commands, node, cpus, coins, lookup)
    if store is not None:
        coins, lookup = store.coins(writing=True), None if keys is None else keys.coins()
        yield Worker(engine, ordinary + slow, commands, node, cpus, coins, lookup, writing=True)
    index = ordinary + slow + int(store is not None)
    for _ in range(config.workers.native_count):
        yield NativeWorker(engine, index, cpus, None)
        index += 1
    if store is not None:
        yield NativeWorker(engine, index, cpus, store)


def describe_tier(engine: native.Engine, config: Config) -> str:
    """Backend and tier in use and, where it is not the best, why; for people."""
    if (refusal := engine.refusal) is not None:
        return f"{engine.tier} ({_explain(refusal)})"
    return f"{engine.tier} (as configured)" if config.network.backend == "epoll" else engine.tier


def explain_failure(error: EngineError, config: Config) -> str:
    """Why the I/O thread could not start."""
    if config.network.backend != "uring" or "pinning" in error.doing:
        return str(error)
    return _explain(error)


def _explain(error: EngineError) -> str:
    return f"io_uring refused: {error}; {explain_refusal(error.number, error.doing)}"


def log_missing(engine: native.Engine, config: Config, bound: Iterable[Bound]) -> None:
    """Log what is not there although an operator may expect it."""
    log_lack_of_ipv4("[network] bind", [one.tcp for one in bound])
    if config.http.enabled and "ipv4" not in process.host_errors():
        events.HOST_ERRORS_HIDDEN.log()
    if LACK_OF_MEMORY in engine.tier:
        events.QUEUES_SMALL.log(why=explain_refusal(errno.ENOMEM))


def log_lack_of_ipv4(place: str, listening: Iterable[socket.socket]) -> None:
    """If one of the sockets stands for every IPv6 address and none for any IPv4 one."""
    everywhere = False
    for one in listening:
        if one.family == socket.AF_INET:
            return
        if one.getsockname()[0] == "::":
            if not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                return  # the service manager's
            everywhere = True
    if everywhere:
        events.IPV6_ONLY.log(place=place)
