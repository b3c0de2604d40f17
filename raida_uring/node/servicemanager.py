"""The service manager: what it is told, and the sockets that it hands over and stores.

Written without systemd's library. Does nothing where no manager asked for it. Thread: control;
notify() any. Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3),
systemd.service(5) on FileDescriptorStoreMax=.
"""

import array
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psutil

from raida_uring.errors import RaidaError, StartError
from raida_uring.log import events
from raida_uring.node.sockets import Inherited
from raida_uring.threads import Vital

_WATCHDOG: Final = "WATCHDOG=1"
NOTIFY_TIMEOUT_S: Final = 1.0  # at the end, for a manager that does not read
ADOPTION_TIMEOUT_S: Final = 10.0  # for a manager that does not read
EXTEND_S: Final = 30.0  # the time that a waiting start asks for, again and again
STOP_MARGIN_S: Final = 30.0  # beyond the drain, for a stop: workers, the store
_LATER_MAX: Final = 64
# The name of our sockets in the descriptor store; those of a .socket unit have the unit's name.
STORED_NAME: Final = "raida-uring-stored"
_FIRST_DESCRIPTOR: Final = 3


def notify(state: str, descriptors: Sequence[int] = ()) -> None:
    """Tell the service manager, if there is one, and pass it copies of `descriptors`. Any thread.

    Does not wait for a manager that does not read: it gets the messages later, in order.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    _teller.tell(address, state, descriptors)


def prepare() -> None:
    """Have what notify() needs: a node without a descriptor must still be able to say it lives.
    Once, at the start."""
    if os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError):  # no descriptor yet: the next word asks anew
            _teller.open()


def flush() -> None:
    """Wait until everything was sent to the service manager, for NOTIFY_TIMEOUT_S at most."""
    _teller.flush()


class _Teller:
    """Sends at once what can be sent at once; a thread, which may wait, sends the rest.

    sd_notify(3) itself waits. A main thread that waited would feed no watchdog and hear no signal;
    a dropped notification would make the start fail.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._later: deque[tuple[str, bytes, list[int]]] = deque()  # the first is being sent
        self._thread: Vital | None = None
        self._channel: socket.socket | None = None  # for good

    def open(self) -> socket.socket:
        if self._channel is None:
            self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        return self._channel

    def tell(self, address: str, state: str, descriptors: Sequence[int]) -> None:
        with self._lock:
            if not self._later:
                try:
                    _send(self.open(), address, state.encode(), descriptors, socket.MSG_DONTWAIT)
                    return
                except BlockingIOError:
                    pass
                except OSError as error:
                    _log_failure(error)
                    return
            # A WATCHDOG=1 need not be queued: the next one does as well.
            if state == _WATCHDOG or len(self._later) >= _LATER_MAX:
                return
            try:
                self._begin()
                self._later.append((address, state.encode(), [os.dup(fd) for fd in descriptors]))
            except (OSError, RuntimeError, MemoryError) as error:  # no descriptor, no thread
                _log_failure(error)
                return
            self._lock.notify_all()
            if len(self._later) > 1:
                return
        events.NOTIFY_LATE.log()

    def _begin(self) -> None:
        if self._thread is None:
            thread = Vital(target=self._run, name="notify", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: bool(self._later))
                address, state, descriptors = self._later[0]
                channel = self.open()  # which there is: the first try was by it
            try:
                _send(channel, address, state, descriptors, 0)
            except OSError as error:
                _log_failure(error)
            for fd in descriptors:
                os.close(fd)
            with self._lock:
                self._later.popleft()
                self._lock.notify_all()

    @property
    def late(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._later)

    def flush(self) -> None:
        with self._lock:
            self._lock.wait_for(lambda: not self._later, NOTIFY_TIMEOUT_S)


_teller = _Teller()


def _send(
    channel: socket.socket, address: str, state: bytes, descriptors: Sequence[int], flags: int
) -> None:
    """Raises OSError."""
    # Not socket.send_fds(), which forgets the address.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    channel.sendmsg([state], [rights] if descriptors else [], flags, address)


def _log_failure(error: Exception) -> None:
    events.NOTIFY_FAILED.log(error=error)


class Adoption:
    """Has systemd see that this process has become its own child. Thread: control; nothing waits.

    A successor is its predecessor's child when the predecessor names it (MAINPID=), and systemd's
    once the predecessor has ended. systemd checks whose child a main process is only when it is
    named; for one that is not its own child, a stop sends SIGTERM and SIGKILL at once. So another
    process is named for a moment, and then this one again. Seen with systemd 252: main_pid_alien
    in service_set_main_pid() and unit_kill_context().
    """

    def __init__(self, predecessor: int) -> None:
        """predecessor: the process whose child this one still is."""
        self._predecessor = predecessor
        self._stand_in: subprocess.Popen[bytes] | None = None
        self._told = False
        self._deadline = 0.0

    def tend(self) -> bool:
        """Call it again and again; whether it is over."""
        if self._stand_in is None:
            return os.getppid() != self._predecessor and not self._begin()
        if not self._heard(self._stand_in) and time.monotonic() < self._deadline:
            return False
        notify(f"MAINPID={os.getpid()}")  # in case the other process could not
        self.end()
        return True

    def _begin(self) -> bool:
        """Name another process; whether that could be done."""
        try:
            self._stand_in = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _STAND_IN],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            _log_failure(error)
            return False
        notify(f"MAINPID={self._stand_in.pid}")
        self._deadline = time.monotonic() + ADOPTION_TIMEOUT_S
        return True

    def _heard(self, stand_in: "subprocess.Popen[bytes]") -> bool:
        """Whether the manager has heard the other process name this one."""
        if not self._told and not _teller.late and stand_in.stdin is not None:
            self._told = True
            with contextlib.suppress(OSError):  # it is gone
                stand_in.stdin.write(b"\n")
                stand_in.stdin.flush()
        heard = select.poll()
        heard.register(stand_in.stdout or -1, 0)
        return bool(heard.poll(0))

    def end(self) -> None:
        """End the other process, if there is one."""
        if self._stand_in is None:
            return
        self._stand_in.kill()
        for pipe in (self._stand_in.stdin, self._stand_in.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._stand_in.wait()  # not communicate(): the manager may still hold the other end
        self._stand_in = None


# Under NotifyAccess=main only the main process may name another, so this process names its parent,
# when told to. The manager closes its standard output once it has heard; it ends with its parent.
_STAND_IN: Final = """
import os, socket, sys
sys.stdin.readline()
address = os.environ["NOTIFY_SOCKET"]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
    channel.connect("\\0" + address[1:] if address[0] == "@" else address)
    channel.send(b"MAINPID=%d" % os.getppid())
    socket.send_fds(channel, [b"BARRIER=1"], [1])
os.close(1)
sys.stdin.read()
"""


class Service:
    """What this process tells the service manager: that it serves, reloads, stops, lives.

    Only the process that is the service speaks: from its start, or once its predecessor has given
    the service up, until it hands the service over. Thread: main; say() any.
    """

    def __init__(self, *, following: bool) -> None:
        """following: the process succeeds a node, whose child it is."""
        self._speaks = False
        # The predecessor is to serve again: until it is the service, this process feeds the
        # watchdog, which no STOPPING=1 has ended.
        self._gives_back = False
        self.status = ""  # what the manager shows while nothing special happens
        self._extend_at = 0.0
        adopted = following and "NOTIFY_SOCKET" in os.environ
        self._adoption = Adoption(os.getppid()) if adopted else None
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        timeout_us = int(watchdog) if watchdog.isdigit() else 0
        self._watchdog_s = timeout_us / 1e6 / 2 if timeout_us else None  # fed twice as often
        self._watchdog_at = 0.0
        self._laps = 0

    def say(self, state: str) -> None:
        """Tell the service manager, if this process is the service. Any thread."""
        if self._speaks:
            notify(state)

    def waits(self, reason: str) -> None:
        """The start waits: call it again and again, so that the manager does not give up."""
        now = time.monotonic()
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_S / 3
            notify(f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}\n{_status(f'waiting: {reason}')}")

    def announce(self, descriptors: Sequence[int]) -> None:
        """This process is the service from now on. Also when it was asked to stop meanwhile: the
        manager takes a process that ends before it was ready for a failed one.

        descriptors: of the listening sockets.
        """
        self._speaks = True
        store_sockets(descriptors)
        self.reloaded("")

    def reloading(self) -> None:
        """Any thread."""
        self.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, remark: str) -> None:
        """It serves as usual. remark: added to the state shown. Any thread."""
        self.say(f"READY=1\n{_status(self.status + remark)}")

    def stops(self, drain_ms: int) -> None:
        """It drains and then ends. Last: a reload under way says nothing more once it drains."""
        self.say(f"STOPPING=1\n{_status('answering what was received, then stopping')}")
        self.ask_for_time(drain_ms)

    def ask_for_time(self, drain_ms: int) -> None:
        """A stop may take longer than TimeoutStopSec=."""
        self.say(f"EXTEND_TIMEOUT_USEC={round((drain_ms / 1000 + STOP_MARGIN_S) * 1e6)}")

    def hand_over(self, process: int) -> None:
        """`process` is the service from now on."""
        self.end()
        self.say(f"MAINPID={process}")
        self._speaks = False

    def give_back(self) -> None:
        """Say nothing more: the predecessor is the service again, if it can serve."""
        self._speaks, self._gives_back = False, True

    def take_back(self) -> None:
        """This process is the service again: the successor has ended."""
        self._speaks = True
        self.claim()

    @staticmethod
    def claim() -> None:
        """Name this process, so that its exit status counts."""
        notify(f"MAINPID={os.getpid()}")

    def tend(self, beat: Callable[[], int], *, leaving: bool) -> None:
        """Call it again and again. beat: has the I/O thread make a lap, and returns how many it has
        made; raises RaidaError when it does not serve. leaving: nobody takes over."""
        self._feed_watchdog(beat, leaving=leaving)
        if self._adoption is not None and self._speaks and self._adoption.tend():
            self.end()

    def _feed_watchdog(self, beat: Callable[[], int], *, leaving: bool) -> None:
        """Only while the I/O thread makes laps. Not once the node leaves: STOPPING=1 has ended the
        watchdog, and WATCHDOG=1 would start it again."""
        if self._watchdog_s is None or time.monotonic() < self._watchdog_at:
            return
        if not self._gives_back and (not self._speaks or leaving):
            return
        try:
            laps = beat()
        except RaidaError:
            return  # not serving: nothing to report
        if laps != self._laps:
            self._laps = laps
            self._watchdog_at = time.monotonic() + self._watchdog_s
            notify(_WATCHDOG)

    @property
    def busy(self) -> bool:
        """Whether tend() is to be called soon."""
        return self._adoption is not None

    def watchdog_in_s(self) -> float | None:
        """When the watchdog is to be fed; None: never."""
        return None if self._watchdog_s is None else self._watchdog_at - time.monotonic()

    def end(self) -> None:
        """End what runs beside this process."""
        if self._adoption is not None:
            self._adoption.end()
            self._adoption = None


def _status(text: str) -> str:
    """The argument of notify() that shows `text` as the node's state."""
    return "STATUS=" + " ".join(text.split())


def stores_sockets() -> bool:
    """Whether the service manager keeps our sockets open from one start to the next.

    systemd says so from version 254 on ($FDSTORE, how many it takes), before that our unit does.
    """
    room = os.environ.get("FDSTORE", "")
    return "NOTIFY_SOCKET" in os.environ and room.isdigit() and int(room) > 0


def store_sockets(descriptors: Sequence[int]) -> None:
    """Have the manager keep these sockets, in place of those that it has. Does nothing unless
    stores_sockets()."""
    if not stores_sockets():
        return
    if len(descriptors) > int(os.environ["FDSTORE"]):
        events.SOCKETS_NOT_KEPT.log(limit=os.environ["FDSTORE"], wanted=len(descriptors))
    _forget_sockets()
    # FDPOLL=0: the manager must not drop a socket because poll() reports an error on it.
    notify(f"FDSTORE=1\nFDNAME={STORED_NAME}\nFDPOLL=0", descriptors)


def _forget_sockets() -> None:
    notify(f"FDSTOREREMOVE=1\nFDNAME={STORED_NAME}")


def received_sockets() -> Inherited | None:
    """The sockets of a .socket unit, otherwise those of store_sockets(): a UDP and a TCP one for
    each address, all on one port.

    None when there are none. Raises StartError when a .socket unit's are not such pairs, stored
    ones are then closed; and when they are for a script that has started this process.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    process = os.environ.pop("LISTEN_PID", "")
    if not count.isdigit() or int(count) == 0:
        return None
    if process != str(os.getpid()):
        _refuse_wrapper(process)
        return None
    every = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    stored = [fd for fd, name in zip(every, names.split(":"), strict=False) if name == STORED_NAME]
    activated = [fd for fd in every if fd not in stored]
    if activated:
        _close_all(stored)  # the same sockets, or some that are not served any more
        inherited = _paired(activated, names)
        inherited.of_unit = True
        return inherited
    try:
        inherited = _paired(stored, names)
    except StartError as error:
        events.SOCKETS_UNUSABLE.log(error=error)
        _close_all(stored)
        _forget_sockets()
        inherited = Inherited(0, {})
        inherited.releasing = True
    inherited.forget = _forget_sockets
    return inherited


def _refuse_wrapper(process: str) -> None:
    """Nobody would serve the sockets, and they would block the port. Raises StartError if `process`
    has started this one."""
    with contextlib.suppress(psutil.Error):
        if any(str(one.pid) == process for one in psutil.Process().parents()):
            raise StartError(
                f"socket activation: the sockets are for process {process} (LISTEN_PID), which "
                "started this one: let it start the node by `exec`"
            )


def _paired(descriptors: Iterable[int], names: str) -> Inherited:
    """Raises StartError."""
    found: dict[str, dict[int, int]] = {}
    ports = set()
    for fd in descriptors:
        host, port, kind = _described(fd, names)
        ports.add(port)
        if found.setdefault(host, {}).setdefault(kind, fd) != fd:
            raise StartError(f"socket activation: two sockets of one kind on {host} port {port}")
    if len(ports) != 1 or any(len(pair) != 2 for pair in found.values()):
        raise StartError(
            "socket activation: ListenStream= and ListenDatagram= must name the same addresses, "
            "all with one port"
        )
    pairs = {
        host: (pair[socket.SOCK_DGRAM], pair[socket.SOCK_STREAM]) for host, pair in found.items()
    }
    return Inherited(ports.pop(), pairs)


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _described(fd: int, names: str) -> tuple[str, int, int]:
    """Host, port and SOCK_* of a descriptor. Raises StartError when it is no such socket."""
    try:
        duplicate = socket.socket(fileno=os.dup(fd))
        with duplicate:
            if duplicate.family in (socket.AF_INET, socket.AF_INET6):
                host, port, *more = duplicate.getsockname()
                if more and more[1]:  # link-local: as [network] bind names it
                    host = f"{host}%{socket.if_indextoname(more[1])}"
                return str(host), int(port), duplicate.type
    except OSError:
        pass
    raise StartError(
        f"socket activation: descriptor {fd} ({names or 'no name'}) is no UDP or TCP socket"
    )
