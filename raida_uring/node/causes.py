"""Why the kernel refuses io_uring to this process, and what to do about it.

A refusal itself is only an errno, so the cause is taken from /proc. diagnose() is pure.
Thread: any.
"""

import errno
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

LACK_OF_MEMORY: Final = "lack of locked memory"  # in the name of a tier with smaller queues
CALLS: Final = ("setup", "register", "enter")  # each may be refused alone

_CAP_IPC_LOCK: Final = 14
_CAP_SYS_ADMIN: Final = 21
_FIRST_USER_NAMESPACE: Final = 0xEFFFFFFD  # its inode, which every kernel gives it

Cause = Literal[
    "seccomp",
    "io_uring_disabled",
    "io_uring_group",
    "lsm",
    "memlock",
    "not_built",
    "too_old",
    "other",
]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What may stand between a process and io_uring.

    disabled, group: kernel.io_uring_disabled and _group, None where the kernel has no such switch.
    seccomp: a filter is installed. privileged: has CAP_SYS_ADMIN where io_uring asks for it, in the
    first user namespace. groups: of the process. lsms: active security modules, None when unknown.
    memlock_bytes: the limit, None when it does not apply.
    """

    disabled: int | None
    group: int | None
    seccomp: bool
    privileged: bool
    groups: tuple[int, ...]
    lsms: str | None
    memlock_bytes: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why io_uring, or a part that the node needs, is not to be had, and what to do about it."""

    cause: Cause
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def circumstances() -> Circumstances:
    """Read what may explain a refusal. Never fails: what cannot be read is absent."""
    status = _read(Path("/proc/self/status")) or ""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    capabilities = int(fields.get("CapEff", "0"), 16) if _in_first_user_namespace() else 0
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY or bool(capabilities >> _CAP_IPC_LOCK & 1)
    return Circumstances(
        disabled=_read_number(Path("/proc/sys/kernel/io_uring_disabled")),
        group=_read_number(Path("/proc/sys/kernel/io_uring_group")),
        seccomp=fields.get("Seccomp", "0").strip() == "2",
        privileged=bool(capabilities >> _CAP_SYS_ADMIN & 1),
        groups=tuple(sorted({os.getegid(), *os.getgroups()})),
        lsms=_read(Path("/sys/kernel/security/lsm")),
        memlock_bytes=None if unlimited else soft,
    )


def _in_first_user_namespace() -> bool:
    """Elsewhere, as in a rootless container, capabilities are not those that io_uring asks for."""
    try:
        return Path("/proc/self/ns/user").stat().st_ino == _FIRST_USER_NAMESPACE
    except OSError:  # a kernel without user namespaces
        return True


def explain_refusal(number: int, doing: str = "") -> str:
    """Cause and remedy for the errno that io_uring_setup, _register or _enter returned.

    doing: the data plane's words for what failed, which tell of which call.
    """
    return str(diagnose(number, call_of(doing), circumstances()))


def call_of(doing: str) -> str | None:
    """Which of CALLS failed, None when unknown. doing: as in explain_refusal(). What sets up a ring
    after it was made goes through io_uring_register."""
    for call in ("setup", "enter"):
        if doing == f"io_uring_{call}":
            return call
    return "register" if doing.startswith(("registering", "restricting", "enabling")) else None


def diagnose(number: int, call: str | None, around: Circumstances) -> Refusal:
    """Why io_uring answered with errno `number`. Pure.

    call: which of CALLS, None when unknown. The sysctl stands before the first one only; what a
    ring already made is refused later comes from a filter or a security module.
    """
    switch = "absent" if around.disabled is None else str(around.disabled)
    shown = f"kernel.io_uring_disabled = {switch}"
    calls = "io_uring_setup, io_uring_enter and io_uring_register"
    allow = f"allow {calls} (containers: a seccomp profile of your own)"
    if number == errno.EPERM:
        if call in (None, "setup") and (refusal := _diagnose_switch(around)) is not None:
            return refusal
        if around.seccomp:
            return Refusal("seccomp", f"a seccomp filter forbids it ({shown})", allow)
        return Refusal(
            "other", f"not permitted ({shown})", "look for a security module or a sandbox"
        )
    if number == errno.ENOSYS:
        # A kernel that has the switch, or made a ring, was built with io_uring.
        if around.seccomp and (around.disabled is not None or call in ("register", "enter")):
            return Refusal("seccomp", f"a seccomp filter hides it ({shown})", allow)
        built = "6.0 or later needed"
        if around.seccomp:  # before Linux 6.6 there is nothing to tell them apart by
            what = f"this kernel is built without io_uring, or a seccomp filter hides it ({shown})"
            return Refusal("not_built", what, f"{built}; {allow}")
        return Refusal(
            "not_built", "this kernel is built without io_uring (or a sandbox hides it)", built
        )
    if number == errno.ENOMEM and around.memlock_bytes is not None:
        what = f"the memlock limit is too low ({in_units(around.memlock_bytes, 'bytes')})"
        return Refusal("memlock", what, "raise LimitMEMLOCK= (ulimit -l) to 64 MiB")
    if number == errno.EACCES:
        if around.seccomp and call in ("register", "enter"):
            return Refusal("seccomp", f"a seccomp filter forbids it ({shown})", allow)
        who = "a security module" if around.lsms is None else f"a security module ({around.lsms})"
        if around.seccomp:
            who += " or a seccomp filter"
        return Refusal("lsm", f"{who} forbids io_uring", "allow it for this service")
    if number in (errno.EINVAL, errno.EOPNOTSUPP):
        return Refusal(
            "too_old", "this kernel lacks an io_uring feature the node needs", "6.0 or later needed"
        )
    return Refusal("other", os.strerror(number), "see docs/troubleshooting.md")


def _diagnose_switch(around: Circumstances) -> Refusal | None:
    """Whether kernel.io_uring_disabled forbids it to this process."""
    open_to_all = "sysctl kernel.io_uring_disabled=0"
    if around.disabled == 2:
        what = "kernel.io_uring_disabled = 2 forbids it to everyone"
        return Refusal("io_uring_disabled", what, open_to_all)
    if around.disabled == 1 and not around.privileged and around.group not in around.groups:
        return Refusal(
            "io_uring_group",
            f"kernel.io_uring_disabled = 1 and kernel.io_uring_group = {around.group}",
            f"put the service's group there, or {open_to_all}",
        )
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _read_number(path: Path) -> int | None:
    text = _read(path)
    return None if text is None else int(text)


def in_units(count: int, unit: str) -> str:
    """`count` for people, bytes in KiB or MiB."""
    if unit != "bytes":
        return str(count)
    return f"{count / 2**20:.3g} MiB" if count >= 2**20 else f"{count / 2**10:.3g} KiB"
