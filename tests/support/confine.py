"""Takes privileges from a process before it becomes the daemon: a seccomp filter against io_uring,
like those of container runtimes, or one that makes io_uring look older; capabilities that root
gives up; another user; lower limits.

For use in a child process: nothing can be taken back, and all of it outlasts exec.
"""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import select
import socket
import struct
from pathlib import Path
from typing import Final

# The same numbers on every architecture that has io_uring.
IO_URING_CALLS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_NET_BIND_SERVICE = 10

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
# A flag of io_uring_setup that Linux 6.1 brought; without it the node takes its tier for 6.0.
DEFER_TASKRUN = 1 << 13

_FDATASYNC_CALL: Final = {"x86_64": 75, "aarch64": 83}
_EPOLL_PWAIT2_CALL: Final = 441  # everywhere; since Linux 5.11
_SECCOMP_CALL: Final = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
_SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
_SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
_NOTIFICATION = struct.Struct("=QII iIQ6Q")  # struct seccomp_notif with its seccomp_data
_NOTIFICATION_ARGUMENTS = 6  # index of the call's first argument in it
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_RING_FLAGS_OFFSET = 8  # of struct io_uring_params

_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_CALL_NUMBER_OFFSET = 0  # of struct seccomp_data
_SECOND_ARGUMENT_OFFSET = 16 + 1 * 8  # its low half, little-endian
_RETURN_ERRNO = 0x00050000
_RETURN_NOTIFY = 0x7FC00000
_RETURN_ALLOW = 0x7FFF0000


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_system_call(number: int, code: int) -> None:
    """From now on, in this thread and all it starts, system call `number` fails with `code`.

    Raises OSError when the kernel takes no filter.
    """
    program = _program(number, _RETURN_ERRNO | code)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def refuse_registration(operation: int, code: int) -> None:
    """From now on, in this thread and all it starts, io_uring_register fails with `code` for
    `operation`, as it does with EINVAL on a kernel that does not know it; for others it works.

    operation: IORING_REGISTER_*. Raises OSError when the kernel takes no filter.
    """
    program = _assemble(
        (_LOAD_WORD, 0, 0, _CALL_NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 3, IO_URING_CALLS["io_uring_register"]),
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, operation),
        (_RETURN, 0, 0, _RETURN_ERRNO | code),
        (_RETURN, 0, 0, _RETURN_ALLOW),
    )
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def refuse_flushes(code: int) -> None:
    """From now on fdatasync() of any file fails with `code`, in every thread of this process.
    Raises OSError when the kernel takes no such filter."""
    _bind_every_thread(_program(_FDATASYNC_CALL[platform.machine()], _RETURN_ERRNO | code))


def refuse_waiting(code: int) -> None:
    """From now on the call with which this node's backend waits, and which nothing else in it uses,
    fails with `code`. Raises OSError when the kernel takes no such filter."""
    links = (link for link in os.scandir("/proc/self/fd") if link.is_symlink())
    has_ring = any(os.readlink(link) == "anon_inode:[io_uring]" for link in links)
    number = IO_URING_CALLS["io_uring_enter"] if has_ring else _EPOLL_PWAIT2_CALL
    _bind_every_thread(_program(number, _RETURN_ERRNO | code))


def _bind_every_thread(program: _Program) -> None:
    """Raises OSError when the kernel takes no such filter."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(
        _SECCOMP_CALL[platform.machine()],
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.byref(program),
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def refuse_ring_flags(flags: int) -> None:
    """From now on, here and in all that this starts, io_uring_setup with any of `flags` fails with
    EINVAL, as it does on a kernel that does not know them.

    A filter sees no memory, so it asks a process of its own, which ends with the last of those that
    the filter binds. Call it with one thread only. Raises OSError when the kernel takes no such
    filter, or this process has one already.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:  # an orphan, so that this process need not wait for it
            _supervise(theirs, ours, flags)
        os._exit(0)
    os.waitpid(child, 0)
    theirs.close()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _program(IO_URING_CALLS["io_uring_setup"], _RETURN_NOTIFY)
    listener = ctypes.CDLL(None, use_errno=True).syscall(
        _SECCOMP_CALL[platform.machine()],
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_NEW_LISTENER,
        ctypes.byref(program),
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    socket.send_fds(ours, [b"\0"], [listener])
    os.close(listener)
    ours.close()


def _supervise(theirs: socket.socket, ours: socket.socket, flags: int) -> None:
    """Answer what the filter asks, until no process is left to ask."""
    try:
        ours.close()
        _, (listener,), _, _ = socket.recv_fds(theirs, 1, 1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):  # someone may wait for the end of what these lead to
            os.dup2(nowhere, fd)
        os.setsid()
        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        while all(what & select.POLLIN for _, what in waiting.poll()):
            notification = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_RECV, notification)
                fields = _NOTIFICATION.unpack(notification)
                params = fields[_NOTIFICATION_ARGUMENTS + 1]
                with open(f"/proc/{fields[1]}/mem", "rb", buffering=0) as memory:
                    memory.seek(params + _RING_FLAGS_OFFSET)
                    (asked,) = struct.unpack("=I", memory.read(4))
                answer = (-errno.EINVAL, 0)
                if not asked & flags:
                    answer = (0, _SECCOMP_USER_NOTIF_FLAG_CONTINUE)
                response = _RESPONSE.pack(fields[0], 0, *answer)
                fcntl.ioctl(listener, _SECCOMP_IOCTL_NOTIF_SEND, response)
            except OSError:  # the caller was killed meanwhile
                continue
    finally:
        os._exit(0)


def _program(number: int, verdict: int) -> _Program:
    """A filter that answers system call `number` with `verdict` and allows the rest."""
    return _assemble(
        (_LOAD_WORD, 0, 0, _CALL_NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, verdict),
        (_RETURN, 0, 0, _RETURN_ALLOW),
    )


def _assemble(*instructions: tuple[int, int, int, int]) -> _Program:
    """instructions: struct sock_filter each."""
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    return _Program(len(instructions), packed)


def give_up(*capabilities: int) -> None:
    """Root loses `capabilities` at its next exec; any other user has none to lose.

    Root stays root otherwise: another user may be unable to read this interpreter's files.
    """
    if os.geteuid() == 0:
        for capability in capabilities:
            _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _ordinary_user(process: int) -> int:
    return 100_000 + process  # one each: the kernel sums locked memory per user


def default_directory(process: int) -> Path:
    """Where a node that became ordinary in `process` has its admin socket; the test removes it."""
    return Path(f"/tmp/raida-uring-{_ordinary_user(process)}")  # noqa: S108  the node's default


def become_ordinary(*, memlock_bytes: int | None) -> None:
    """Lower the limit of locked memory, and become a user without rights who runs nothing else.

    memlock_bytes: None leaves the limit. Import first what is needed: that user may be unable to
    read this interpreter's files. Anyone but root stays the same user.
    """
    if memlock_bytes is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock_bytes, memlock_bytes))
    if os.geteuid() == 0:
        user = _ordinary_user(os.getpid())
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        _prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after exec: its own /proc stays readable


def enter_user_namespace(*, memlock_bytes: int) -> None:
    """Lower the limit of locked memory, and become what a rootless container holds: a process with
    every capability in a user namespace of its own, and none in the first one.

    Call it with one thread only. Raises OSError where that is not permitted.
    """
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock_bytes, memlock_bytes))
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def leave_network() -> None:
    """Move into a network of its own, in which not even loopback is up.

    Raises OSError where that is not permitted.
    """
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _prctl(*arguments: object) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
