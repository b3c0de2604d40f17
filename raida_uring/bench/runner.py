"""The benchmark: `make bench`, `raida-uring bench`.

Server and generator are pinned to different cores. Within a case the contenders alternate
(A B C A B C …), each run in a fresh process, so that a slow phase of the machine affects all of
them; medians are compared. Exit status: 0 measured, 1 the node answered wrongly, 2 it could not be
measured, 130 interrupted, with a report of the results so far. A missed goal is reported but not an
error, since the machine may be the cause.
"""

import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from raida_uring.bench import cases, contenders, groups, report, votes
from raida_uring.bench.cases import CASES, Case
from raida_uring.bench.commands import GROUPS, WINDOW
from raida_uring.bench.contenders import Contender, ContenderError
from raida_uring.bench.load import Exchange, Load, run_load
from raida_uring.bench.meter import (
    WARM_UP_MS,
    Meter,
    Settings,
    find_io_thread,
    load_on,
    measured,
    progress,
    real_time,
    syscalls_per_request,
)
from raida_uring.bench.results import (
    YARDSTICK,
    CaseReport,
    Measurement,
    Outcome,
    Pair,
    Report,
    SpinRun,
    WorkersReport,
)

_EXIT_INTERRUPTED = 130

START_S = 1.0  # to start and end a server, about
SPIN_LEAD_MS = 500  # spinning starts this long before the votes, and ends as long after
SPIN_WINDOW = 64
SPIN_TIMEOUT_MS = 10_000
_HANDLERS: dict[str, object] = {"modules": ["raida_uring.bench.timed_handlers"]}


def run(settings: Settings, *, as_markdown: bool = False, json_path: Path | None = None) -> int:
    """Measure, print each case as it ends, and return the exit status.

    json_path: file for all results. Raises RaidaError if the node cannot run, OSError if the file
    cannot be written, before any measurement.
    """
    with contextlib.nullcontext() if json_path is None else json_path.open("w") as file:
        found = Report(_machine(settings), (), (), {}, judged=contenders.has_peers())
        print(f"bench: takes about {_estimate(settings)}", file=sys.stderr, flush=True)
        told = 0
        interrupted = False
        try:
            for found in measure(settings, found):  # noqa: B020  each adds to the one before
                progress("")
                new = report.sections(found)[told:]
                if not as_markdown:
                    print("\n" * bool(told) + "\n\n".join(new), flush=True)
                told += len(new)
        except KeyboardInterrupt:
            progress("")
            interrupted = True
        if as_markdown:
            print(report.markdown(found))
        if file is not None:
            file.write(json.dumps(report.as_json(found), indent=2) + "\n")
    if interrupted:
        print("raida-uring: bench: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    if found.wrong_answers > 0:
        print(f"raida-uring: bench: {found.wrong_answers} wrong answers", file=sys.stderr)
        return 1
    return 0


def measure(settings: Settings, found: Report) -> Iterator[Report]:
    """Run every case that the settings ask for. Yields all results so far, first without any.
    Raises RaidaError if the node cannot run."""
    yield found
    available, not_run = _contenders()
    for name in (cases.SPIN_CASE, cases.VOTES_CASE):
        if settings.wants(name) and settings.server_cpu == settings.client_cpu:
            not_run[name] = "needs two cores"
    if found.judged and not_run:
        found = dataclasses.replace(found, not_run=not_run)
        yield found
    with contenders.pinned({settings.client_cpu}):
        for case in _chosen(settings):
            one = _measure_case(case, available, settings)
            found = dataclasses.replace(found, reports=(*found.reports, one))
            yield found
        if settings.wants(cases.SPIN_CASE) and cases.SPIN_CASE not in not_run:
            spin_runs = tuple(_measure_spin(settings) for _ in range(settings.rounds))
            found = dataclasses.replace(found, spin_runs=spin_runs)
            yield found
        with groups.Stores() as stores:
            for group in (one for one in GROUPS if settings.wants(one.name)):
                one_group = groups.measure(group, stores, settings)
                found = dataclasses.replace(found, groups=(*found.groups, one_group))
                yield found
            if settings.wants(cases.VOTES_CASE) and cases.VOTES_CASE not in not_run:
                for _ in range(settings.rounds):
                    runs = votes.measure(stores, settings)
                    found = dataclasses.replace(found, flood_runs=(*found.flood_runs, *runs))
                yield found
        if settings.wants(cases.WORKERS_CASE):
            yield dataclasses.replace(found, workers_reports=_measure_workers(settings))


def _chosen(settings: Settings) -> list[Case]:
    return [case for case in CASES if settings.wants(case.name)]


def _estimate(settings: Settings) -> str:
    """Return an estimate of the duration as text."""
    peers = contenders.PEERS if contenders.has_peers() else ()
    names = (*cases.NODES, *peers)
    run_s = (WARM_UP_MS + settings.duration_ms) / 1000
    runs = sum(len(set(case.contenders) & set(names)) for case in _chosen(settings))
    total_s = settings.rounds * runs * (START_S + run_s)
    if settings.wants(cases.SPIN_CASE):
        total_s += settings.rounds * (2 * START_S + 4 * settings.duration_ms / 1000)
    for group in (one for one in GROUPS if settings.wants(one.name)):
        total_s += settings.rounds * (START_S + groups.round_s(group, settings))
    if settings.wants(cases.VOTES_CASE):
        total_s += settings.rounds * (2 * START_S + votes.round_s(settings))
    if settings.wants(cases.WORKERS_CASE):
        total_s += 2 * START_S + settings.rounds * 2 * len(_WORKERS_ASKED) * run_s
    minutes = round(total_s / 60)
    return f"{minutes} minutes" if minutes > 1 else "a minute"


def case_names() -> list[str]:
    """Return the allowed values of `only`."""
    listed = (*CASES, *GROUPS)
    return [*(case.name for case in listed), cases.SPIN_CASE, cases.VOTES_CASE, cases.WORKERS_CASE]


def settings_of(
    *,
    seconds: float,
    rounds: int,
    server_cpu: int | None = None,
    client_cpu: int | None = None,
    only: str | None = None,
) -> Settings:
    """Choose the missing cores. Raises ContenderError for a core that this process may not use."""
    allowed = sorted(os.sched_getaffinity(0))
    server = allowed[0] if server_cpu is None else server_cpu
    others = [cpu for cpu in allowed if cpu != server] or allowed
    client = others[0] if client_cpu is None else client_cpu
    for cpu in (server, client):
        if cpu not in allowed:
            raise ContenderError(f"core {cpu} is not one of {allowed}")
    return Settings(round(seconds * 1000), rounds, server, client, only, frozenset(allowed))


def _contenders() -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that can run here, and the reasons why others cannot."""
    silent: dict[str, object] = {"requests_per_s": 0}
    available = {
        "node": contenders.node(),
        "node-nolog": contenders.node("node-nolog", log=silent),
        "node-python": contenders.node("node-python", handlers=_HANDLERS),
        "node-python-1w": contenders.node(
            "node-python-1w", handlers=_HANDLERS, workers={"count": 1}
        ),
        "node-epoll": contenders.node("node-epoll", network={"backend": "epoll"}),
    }
    not_run: dict[str, str] = {}
    for name in contenders.PEERS:
        try:
            available[name] = contenders.peer(name)
        except ContenderError as error:
            not_run[name] = str(error)
    return available, not_run


def _machine(settings: Settings) -> dict[str, str | int | float]:
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        # Handlers run up to a quarter faster if it was built with profiles, as Debian's is.
        "interpreter": os.path.realpath(sys.executable),
        "cores": os.cpu_count() or 0,
        "server_cpu": settings.server_cpu,
        "client_cpu": settings.client_cpu,
        "rounds": settings.rounds,
        "seconds": settings.duration_ms / 1000,
    }


def _measure_case(case: Case, available: dict[str, Contender], settings: Settings) -> CaseReport:
    names = [name for name in case.contenders if name in available]
    runs: dict[str, list[Measurement]] = {name: [] for name in names}
    syscalls: dict[str, float | None] = {}
    for number in range(settings.rounds):
        for name in names:
            progress(f"{case.name}: round {number + 1} of {settings.rounds}: {name}")
            with contenders.running(available[name], {settings.server_cpu}) as server:
                load = load_on(server, settings, transport=case.transport, window=case.window)
                runs[name].append(measured(load, case.exchange, server, settings))
                if number == 0:
                    syscalls[name] = syscalls_per_request(load, case.exchange, server)
    return CaseReport(case, {name: Outcome(tuple(runs[name]), syscalls[name]) for name in names})


# Name, exchange and lowest accepted ratio of throughput. All are handlers in Python: what the node
# answers in C has no use for workers.
_WORKERS_ASKED: tuple[tuple[str, Exchange, float], ...] = (
    ("version in Python", cases.VERSION, cases.WORKERS_RATIO_MIN),
    ("1 ms of Python", cases.WORK, cases.WORKERS_RATIO_MIN),
    ("1 ms of sleep", cases.NAP, cases.WORKERS_NAP_RATIO_MIN),
)


def _measure_workers(settings: Settings) -> tuple[WorkersReport, ...]:
    """Ask two nodes alternately, on all cores, which the generator shares.

    Nodes are not pinned, and the generator sleeps: the case measures how workers use the cores when
    another one has the GIL.
    """
    pairs: dict[str, list[Pair]] = {name: [] for name, _, _ in _WORKERS_ASKED}
    with ExitStack() as stack:
        servers = []
        for workers in (1, cases.WORKERS_MANY):
            node = contenders.node(workers={"count": workers}, handlers=_HANDLERS)
            servers.append(stack.enter_context(contenders.running(node, settings.cpus)))
        for number in range(settings.rounds):
            for name, exchange, _ in _WORKERS_ASKED:
                progress(f"workers: round {number + 1} of {settings.rounds}: {name}")
                one, many = (
                    measured(load, exchange, server, settings)
                    for server in servers
                    for load in [load_on(server, settings, window=WINDOW, busy_poll=False)]
                )
                pairs[name].append(Pair(one, many))
    return tuple(
        WorkersReport(name, least, tuple(pairs[name])) for name, _, least in _WORKERS_ASKED
    )


def _measure_spin(settings: Settings) -> SpinRun:
    """The I/O thread has a core; workers and generators share the other.

    The generator of the votes runs at real-time priority if permitted, so that its latencies do not
    include waiting for a core that four workers keep busy.
    """
    progress(f"{cases.SPIN_CASE}: {cases.SPIN_VOTES_PER_S} votes a second")
    node = contenders.node(
        workers={"count": cases.SPIN_WORKERS, "cpus": [settings.client_cpu]},
        network={"io_cpu": settings.server_cpu},
        handlers=_HANDLERS,
    )
    control = _measure_control(settings)
    with (
        ThreadPoolExecutor(1) as pool,
        contenders.running(node, {settings.server_cpu, settings.client_cpu}) as server,
    ):
        io_thread = find_io_thread(server)
        with real_time():
            idle = votes.slices(server, settings, {io_thread})
        # Keeps every worker spinning: more requests outstanding than there are workers.
        load = Load(
            port=server.port,
            duration_ms=settings.duration_ms + 2 * SPIN_LEAD_MS,
            window=SPIN_WINDOW,
            timeout_ms=SPIN_TIMEOUT_MS,
            busy_poll=False,
        )
        spin = pool.submit(run_load, load, cases.SPIN)
        time.sleep(SPIN_LEAD_MS / 1000)  # warm-up, not synchronisation
        with real_time():
            waited_s = server.waited_s(io_thread)
            started_s = time.monotonic()
            meter = Meter(server, settings.server_cpu, {io_thread})
            beside = votes.slices(server, settings, {io_thread})
            cpu_s = meter.used_s()
            duration_s = time.monotonic() - started_s
            waited_s = server.waited_s(io_thread) - waited_s
        spins_answered = spin.result().answered
    worker_cpu_s = sum(used for thread, used in cpu_s.items() if thread != io_thread)
    return SpinRun(
        idle=idle,
        beside_spin=beside,
        spins_answered=spins_answered,
        worker_cpu=worker_cpu_s / duration_s,
        io_waited=waited_s / duration_s,
        control=control,
    )


def _measure_control(settings: Settings) -> tuple[Measurement, ...]:
    """Send the same votes to the yardstick, alone on the core of the node's I/O thread."""
    try:
        peer = contenders.peer(YARDSTICK)
    except ContenderError:
        return ()
    with contenders.running(peer, {settings.server_cpu}) as server, real_time():
        return votes.slices(server, settings, None)
