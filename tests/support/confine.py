"""What takes privileges from a process before it becomes the daemon: a seccomp filter as container
runtimes set it against io_uring, capabilities that root gives up, another user, lower limits.

For use in a child process: neither can be taken back, and both outlast exec.
"""

import ctypes
import os
import resource
import struct

# The same numbers on every architecture that has io_uring.
IO_URING_CALLS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_NET_BIND_SERVICE = 10

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_CALL_NUMBER_OFFSET = 0  # of struct seccomp_data
_RETURN_ERRNO = 0x00050000
_RETURN_ALLOW = 0x7FFF0000


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_system_call(number: int, code: int) -> None:
    """From now on, in this thread and all it starts, system call `number` fails with `code`.

    Raises OSError when the kernel takes no filter.
    """
    instructions = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD_WORD, 0, 0, _CALL_NUMBER_OFFSET),
            (_JUMP_IF_EQUAL, 0, 1, number),
            (_RETURN, 0, 0, _RETURN_ERRNO | code),
            (_RETURN, 0, 0, _RETURN_ALLOW),
        )
    )
    program = _Program(len(instructions) // 8, instructions)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def give_up(*capabilities: int) -> None:
    """Root loses `capabilities` at its next exec; any other user has none to lose.

    Root stays root otherwise: another user may be unable to read this interpreter's files.
    """
    if os.geteuid() == 0:
        for capability in capabilities:
            _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def become_ordinary(*, memlock_bytes: int | None) -> None:
    """Lower the limit of locked memory, and become a user without rights who runs nothing else.

    memlock_bytes: None leaves the limit. Import first what is needed: that user may be unable to
    read this interpreter's files. Anyone but root stays the same user.
    """
    if memlock_bytes is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock_bytes, memlock_bytes))
    if os.geteuid() == 0:
        user = 100_000 + os.getpid()  # the kernel sums locked memory per user
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        _prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after exec: its own /proc stays readable


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
