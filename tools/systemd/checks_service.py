"""Checks of the unit in service: start, stop, reload, upgrade, watchdog, sandbox."""

import contextlib
import ctypes
import os
import pathlib
import socket
import subprocess
import time

from tools.systemd.proof import (
    _PTRACE_INTERRUPT,
    _PTRACE_SEIZE,
    _WALL,
    CONFIG,
    DRAWN_NAP,
    LONG_NAP,
    MARGIN_S,
    MODULES,
    PORT,
    SOCKET_UNIT,
    UNIT,
    WATCHDOG_S,
    Asking,
    Hammer,
    answers,
    ask_tcp,
    ask_udp,
    build,
    check,
    configured,
    cursor,
    eventually,
    extended,
    fresh_start,
    journal,
    logged,
    main_pid,
    must,
    must_be_active,
    run,
    shown,
    stopped,
    systemctl,
    timed,
    told,
)


@check
def ready() -> str:
    """active only once it answers (Type=notify); STATUS text"""
    extended(f"Environment=PYTHONPATH={MODULES}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["slow_import"]\n'):
        systemctl("start", "--no-block", UNIT)
        began = time.monotonic()
        waited_s = 0.0
        while (state := shown("ActiveState")) != "active":
            must(state in ("inactive", "activating"), f"{state} before it was active")
            if state == "activating" and main_pid():
                waited_s = time.monotonic() - began
            must(time.monotonic() - began < 60, "not active within 60 s")
        must(answers(), "active, and does not answer")
        must(waited_s > 2.5, f"activating for {waited_s:.1f} s only: a handler takes 3 s to load")
    extended("")
    text = shown("StatusText")
    must(text.startswith("serving on 0.0.0.0:50000, [::]:50000: "), f"STATUS is {text!r}")
    return f"activating for {waited_s:.1f} s; {text}"


@check
def ping() -> str:
    """`raida-uring ping` is answered over UDP and TCP"""
    fresh_start()
    for transport in ("--udp", "--tcp"):
        done = run("ping", transport, "-c", "1", f"127.0.0.1:{PORT}")
        must(done.returncode == 0, done.stdout + done.stderr)
    return "both"


@check
def sandbox() -> str:
    """user of its own, no capability but CAP_NET_BIND_SERVICE, a seccomp filter"""
    fresh_start()
    text = pathlib.Path(f"/proc/{main_pid()}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    uid = int(status["Uid"].split()[0])
    must(uid != 0, "runs as root")
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        must(int(status[name], 16) == 1 << 10, f"{name} {status[name]}")
    must(status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2", text)
    return f"uid {uid}"


@check
def sigkill() -> str:
    """killed by SIGKILL: restarted, and answers"""
    fresh_start()
    former = main_pid()
    systemctl("kill", "-s", "SIGKILL", UNIT)
    took_s = eventually(lambda: main_pid() not in (0, former) and answers(), 15, "no answer")
    must(shown("NRestarts") == "1", f"NRestarts={shown('NRestarts')}")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    return f"answers after {took_s:.1f} s"


@check
def watchdog() -> str:
    """I/O thread stopped by a debugger: killed by the watchdog, restarted; not before"""
    fresh_start()
    since, former = cursor(), main_pid()
    time.sleep(2.5 * WATCHDOG_S)
    must(main_pid() == former and shown("NRestarts") == "0", "killed while it was well")
    must(shown("WatchdogUSec") == f"{WATCHDOG_S}s", shown("WatchdogUSec"))
    (thread,) = [
        int(task.name)
        for task in pathlib.Path(f"/proc/{former}/task").iterdir()
        if (task / "comm").read_text().strip() == "raida-io"
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        done = libc.ptrace(request, thread, None, None)
        must(done == 0, f"ptrace: {os.strerror(ctypes.get_errno())}")
    began = time.monotonic()
    os.waitpid(thread, _WALL)
    must(not answers(), "answers with its I/O thread stopped")
    threads = len(list(pathlib.Path(f"/proc/{former}/task").iterdir()))

    def ended() -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(thread, _WALL | os.WNOHANG)  # a debugger takes its end
        return main_pid() != former

    eventually(ended, WATCHDOG_S + MARGIN_S, "not killed")
    killed_s = time.monotonic() - began
    eventually(lambda: main_pid() and answers(), MARGIN_S, "no answer")
    took_s = time.monotonic() - began
    must(shown("NRestarts") == "1", f"NRestarts={shown('NRestarts')}")
    entries = [str(entry.get("MESSAGE")) for entry in journal(since)]
    must(any("Watchdog timeout" in line for line in entries), "the journal knows no watchdog")
    return (
        f"one of {threads} threads stopped; killed after {killed_s:.1f} s, answers after "
        f"{took_s:.1f} s"
    )


@check
def reload() -> str:
    """`systemctl reload` applies a live key and logs it; with a wrong file it fails"""
    fresh_start()
    since, former = cursor(), main_pid()
    right = CONFIG.read_text()
    with configured(right.replace('level = "info"', 'level = "debug"')):
        systemctl("reload", UNIT)
        text = str(logged("reloaded", since)["MESSAGE"])
        must('[log] level "info" -> "debug"' in text, text)
        must(run("log-level", "--config", str(CONFIG)).stdout.strip() == "debug", "log level")
        since = cursor()
        CONFIG.write_text(right.replace('level = "info"', 'level = "verbose"'))
        systemctl("reload", UNIT, status=1)
        said = [str(entry["MESSAGE"]) for entry in journal(since)]
        must(any("[log] level" in line for line in said), f"the journal names no key: {said}")
        must(shown("ActiveState") == "active", shown("ActiveState"))
        systemctl("kill", "-s", "SIGHUP", UNIT)
        must("[log] level" in str(logged("reload_failed", since)["MESSAGE"]), "no reload_failed")
        must("last reload failed" in shown("StatusText"), shown("StatusText"))
        must(shown("ActiveState") == "active", shown("ActiveState"))
        must(run("log-level", "--config", str(CONFIG)).stdout.strip() != "verbose", "applied")
    must(main_pid() == former and answers(), "the node is not as it was")
    systemctl("reload", UNIT)
    must("failed" not in shown("StatusText"), shown("StatusText"))
    return text


@check
def stop_drains() -> str:
    """`systemctl stop` answers what is under way, and ends well"""
    extended(f"Environment=PYTHONPATH={MODULES}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        since = cursor()
        with Asking() as asking:
            began = time.monotonic()
            systemctl("stop", "--no-block", UNIT)
            eventually(lambda: shown("ActiveState") == "deactivating", 2, "not deactivating")
            text = shown("StatusText")
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
        took_s = time.monotonic() - began
    extended("")
    must(asking.got == [250], f"a request under way got {asking.got}")
    must(text.startswith("answering"), f"STATUS is {text!r}")
    must(shown("Result") == "success" and shown("ExecMainStatus") == "0", shown("Result"))
    final = logged("final_counters", since)
    must(final["RAIDA_TCP_ANSWERED"] == "1", "the counters know it not")
    return f"answered after 2 s of work, stopped after {took_s:.1f} s"


@check
def drain_outlasts_the_manager() -> str:
    """a drain longer than WatchdogSec= and TimeoutStopSec= answers what is under way"""
    extended(f"Environment=PYTHONPATH={MODULES}\nTimeoutStopSec={2 * WATCHDOG_S}s")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        with Asking(LONG_NAP) as asking:
            began = time.monotonic()
            done = run("drain", "--timeout", str(6 * WATCHDOG_S), "--config", str(CONFIG))
            took_s = time.monotonic() - began
        eventually(lambda: shown("ActiveState") == "inactive", 10, "not inactive")
    extended("")
    must(asking.got == [250], f"a request under way got {asking.got}, drain said {done.stderr}")
    must(done.returncode == 0, f"drain: {done.returncode}: {done.stdout}{done.stderr}")
    must(shown("Result") == "success" and shown("ExecMainStatus") == "0", shown("Result"))
    return f"drained for {took_s:.1f} s"


@check
def journal_fields() -> str:
    """the journal has the events with their fields"""
    since = cursor()
    fresh_start()
    ask_tcp()
    serving, request = logged("serving", since), logged("request", since)
    must(serving["RAIDA_TIER"], "no RAIDA_TIER")
    wanted = {
        "_SYSTEMD_UNIT": UNIT,
        "SYSLOG_IDENTIFIER": "raida-uring",
        "PRIORITY": "6",
        "RAIDA_TRANSPORT": "tcp",
        "RAIDA_STATUS": "250",
    }
    for name, value in wanted.items():
        must(request.get(name) == value, f"{name} is {request.get(name)!r}: {request}")
    must("127.0.0.1" in str(request.get("RAIDA_PEER")), str(request))
    return ", ".join(sorted(name for name in request if name.startswith("RAIDA_")))


@check
def upgrade() -> str:
    """`raida-uring upgrade`: another main process, always active, no restart, nobody unanswered"""
    fresh_start()
    since, pids = cursor(), [main_pid()]
    entered = shown("ActiveEnterTimestampMonotonic")
    with Hammer() as hammer:
        for _ in range(3):
            done = run("upgrade", "--config", str(CONFIG))
            must(done.returncode == 0, done.stdout + done.stderr)
            eventually(lambda: main_pid() not in (0, *pids), 5, "MAINPID as before")
            pids.append(main_pid())
            must(shown("ActiveState") == "active", shown("ActiveState"))
            former = pathlib.Path(f"/proc/{pids[-2]}")
            eventually(lambda former=former: not former.exists(), 20, "the old one is there")  # type: ignore[misc]
            eventually(
                lambda: run("status", "--config", str(CONFIG)).returncode == 0, 5, "no status"
            )
    must(shown("NRestarts") == "0", f"NRestarts={shown('NRestarts')}")
    must(shown("ActiveEnterTimestampMonotonic") == entered, "was not active all the time")
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    refused = [
        entry for entry in journal(since) if "reception only permitted" in str(entry["MESSAGE"])
    ]
    must(not refused, f"{len(refused)} notifications refused: {refused[:1]}")
    eventually(lambda: "serving" in shown("StatusText"), 2, "STATUS")
    time.sleep(1.5 * WATCHDOG_S)  # the successor feeds it
    must(main_pid() == pids[-1] and shown("NRestarts") == "0", "killed by the watchdog")
    former_pid = main_pid()
    systemctl("kill", "-s", "SIGKILL", UNIT)
    eventually(lambda: main_pid() not in (0, former_pid) and answers(), 15, "no restart after it")
    return f"main process {' -> '.join(map(str, pids))}; {hammer.summary()}"


def stop_beside_upgrade(access: str, *, during: bool) -> str:
    """A stop after an upgrade, or while the old process still answers, under NotifyAccess=."""
    extended(f"Environment=PYTHONPATH={MODULES}\nNotifyAccess={access}")
    with configured(CONFIG.read_text() + '\n[handlers]\nmodules = ["naps"]\n'):
        fresh_start()
        since, former = cursor(), main_pid()
        gone = pathlib.Path(f"/proc/{former}")
        with Asking(DRAWN_NAP) if during else contextlib.nullcontext() as of_the_old:
            told("upgrade")
            if not during:
                eventually(lambda: not gone.exists(), 20, "the old one is there")
                time.sleep(1.5 * WATCHDOG_S)  # the successor is heard
            successor = main_pid()
            must(successor not in (0, former), f"main process {former} -> {successor}")
            must_be_active()
            must(gone.exists() == during, "the old process should be there, or should not")
            with Asking() as of_the_new:
                took_s = timed(lambda: systemctl("stop", UNIT))
    extended("")
    got = of_the_new.got + ([] if of_the_old is None else of_the_old.got)
    must(set(got) == {250}, f"requests under way got {got}, stopped after {took_s:.1f} s")
    must(shown("Result") == "success", shown("Result"))
    logged("final_counters", since)
    refused = [
        entry for entry in journal(since) if "reception only permitted" in str(entry["MESSAGE"])
    ]
    must(not refused, f"{len(refused)} notifications refused: {refused[:1]}")
    return f"stopped after {took_s:.1f} s under NotifyAccess={access}"


@check
def stop_after_upgrade() -> str:
    """after an upgrade, too, `systemctl stop` answers what is under way, and ends well"""
    return ", ".join(stop_beside_upgrade(access, during=False) for access in ("all", "main"))


@check
def stop_during_upgrade() -> str:
    """a stop while the old process still answers: both answer what they have, and end well"""
    return stop_beside_upgrade("all", during=True)


@check
def upgrade_fails() -> str:
    """`raida-uring upgrade` with a wrong file: exit 2, the old process goes on"""
    fresh_start()
    former = main_pid()
    with configured("[server]\nraida_id = 77\n"):
        done = run("upgrade", "--socket", "/run/raida-uring/admin.sock")
    must(done.returncode == 2, f"status {done.returncode}: {done.stdout}{done.stderr}")
    must(main_pid() == former and answers(), "not as it was")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    return done.stderr.strip()


@check
def restart_refuses_nobody() -> str:
    """`systemctl restart` with the descriptor store: clients wait, none is refused"""
    fresh_start()
    since, pids = cursor(), {main_pid()}
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    with Hammer() as hammer:
        for _ in range(5):
            systemctl("reset-failed", UNIT)  # five starts in ten seconds are systemd's limit
            systemctl("restart", UNIT)
            pids.add(main_pid())
    must(len(pids) == 6, "not restarted")
    must(shown("NFileDescriptorStore") == "4", f"{shown('NFileDescriptorStore')} sockets stored")
    failures = [entry for entry in journal(since) if str(entry["PRIORITY"]) <= "4"]
    must(not failures, str(failures))
    return f"5 restarts; {hammer.summary()}"


@check
def crash_refuses_nobody() -> str:
    """after SIGKILL new connections wait for the next start; those that were open are lost"""
    fresh_start()
    with Hammer(udp=0) as hammer:
        former = main_pid()
        systemctl("kill", "-s", "SIGKILL", UNIT)
        eventually(lambda: main_pid() not in (0, former) and answers(), 15, "no answer")
    refused = [fault for fault in hammer.faults if "Refused" in fault]
    must(not refused, f"{len(refused)} refused")
    must(len(hammer.faults) <= 6, f"more than one per client: {hammer.faults}")
    return f"{hammer.answered['tcp']} answered, {len(hammer.faults)} lost with the process"


def listening(transport: str) -> set[str]:
    """Local addresses, but for HTTP's."""
    done = subprocess.run(
        ["ss", "-Hln", f"--{transport}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    places = {line.split()[3] for line in done.stdout.splitlines()}
    return {place for place in places if ":500" in place}


@check
def store_follows_the_configuration() -> str:
    """stored sockets that the configuration does not name are closed, new ones bound and stored"""
    fresh_start()
    right = CONFIG.read_text()
    variants = [
        (right.replace("50000", "50001"), {"0.0.0.0:50001", "[::]:50001"}, "4"),
        (right.replace('"0.0.0.0", "::"', '"127.0.0.1"'), {"127.0.0.1:50000"}, "2"),
        (right.replace('"0.0.0.0", "::"', '"0.0.0.0"'), {"0.0.0.0:50000"}, "2"),
        (right, {"0.0.0.0:50000", "[::]:50000"}, "4"),
    ]
    for text, places, count in variants:
        with configured(text):
            systemctl("restart", UNIT)
            for transport in ("tcp", "udp"):
                eventually(
                    lambda transport=transport, places=places: listening(transport) == places,  # type: ignore[misc]
                    5,
                    f"{transport}: {listening(transport)} in place of {places}",
                )
            must(shown("NFileDescriptorStore") == count, shown("NFileDescriptorStore"))
            must(shown("NRestarts") == "0", "it took more than one start")
    systemctl("stop", UNIT)
    eventually(lambda: not listening("tcp") | listening("udp"), 5, "sockets open after a stop")
    return "port, address to another, wildcard back, one more; nothing left after a stop"


@check
def socket_activation() -> str:
    """raida-uring.socket: the first client starts the node; restarts and a stop refuse nobody"""
    systemctl("stop", UNIT, status=None)
    systemctl("reset-failed", UNIT, status=None)
    systemctl("start", SOCKET_UNIT)
    must(shown("ActiveState") == "inactive", shown("ActiveState"))
    must(ask_udp(timeout_s=20) == 250, "the datagram that started it is not answered")
    must(shown("ActiveState") == "active", shown("ActiveState"))
    must(answers(), "no answer")
    with Hammer() as hammer:
        systemctl("restart", UNIT)
        systemctl("stop", UNIT)  # the next client starts it again
        eventually(answers, 20, "no answer after a stop")
        done = run("upgrade", "--config", str(CONFIG))
        must(done.returncode == 0, done.stdout + done.stderr)
    systemctl("stop", SOCKET_UNIT, UNIT)
    eventually(lambda: not listening("tcp") | listening("udp"), 5, "sockets open after a stop")
    return hammer.summary()


@check
def wrong_configuration() -> str:
    """a wrong configuration ends the start with status 2 and is not tried again"""
    stopped()
    since = cursor()
    with configured(CONFIG.read_text().replace("raida_id = 0", "raida_id = 77")):
        systemctl("start", UNIT, status=1)
        time.sleep(2.5)  # RestartSec is 1 s
        must(shown("ActiveState") == "failed" and shown("NRestarts") == "0", "tried again")
    must(shown("ExecMainStatus") == "2", shown("ExecMainStatus"))
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    (line,) = [text for text in said if text.startswith("raida-uring: ")]
    must(not any("Traceback" in text for text in said), str(said))
    return line


@check
def wrong_configuration_of_the_socket_unit() -> str:
    """clients of raida-uring.socket do not start a node with a wrong configuration for ever"""
    stopped()
    with configured(CONFIG.read_text().replace("raida_id = 0", "raida_id = 77")):
        systemctl("start", SOCKET_UNIT)
        since = cursor()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(build(), ("127.0.0.1", PORT))
            took_s = eventually(
                lambda: shown("ActiveState", SOCKET_UNIT) == "failed", 30, "still tried"
            )
        why = shown("Result", SOCKET_UNIT)
        must(why == "service-start-limit-hit", why)
    said = [str(entry["MESSAGE"]) for entry in journal(since)]
    ended = [text for text in said if "status=2/INVALIDARGUMENT" in text]
    stopped()
    systemctl("start", SOCKET_UNIT)
    must(ask_udp(timeout_s=20) == 250, "no answer once it is right")
    stopped()
    return f"{len(ended)} tries, {took_s:.1f} s"


@check
def analyze() -> str:
    """`systemd-analyze verify` has nothing to say; exposure at most 2.0"""
    for unit in (UNIT, SOCKET_UNIT):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        must(done.returncode == 0 and not done.stderr.strip(), done.stderr)
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    must(done.returncode == 0, last)
    return last.removeprefix("→ ")
