"""Why the kernel refuses io_uring, in words an operator can act on.

Thread: any. Reads /proc only.
"""

import errno
from pathlib import Path
from typing import Final

_DISABLED: Final = Path("/proc/sys/kernel/io_uring_disabled")
_GROUP: Final = Path("/proc/sys/kernel/io_uring_group")
_STATUS: Final = Path("/proc/self/status")


def explain_refusal(number: int) -> str:
    """Cause, sysctl value and remedy for the errno that io_uring_setup or _register returned."""
    if number == errno.ENOSYS:
        return "this kernel is built without io_uring (or a sandbox hides it): 6.0 or later needed"
    if number == errno.EPERM:
        return _explain_permission()
    if number == errno.ENOMEM:
        return "the memlock limit is too low: raise LimitMEMLOCK= (ulimit -l) to 64 MiB"
    if number == errno.EACCES:
        return "a security module forbids io_uring: allow it for this service"
    if number == errno.EINVAL:
        return "this kernel lacks an io_uring feature the node needs: 6.0 or later needed"
    return "see docs/operate.md"


def _explain_permission() -> str:
    disabled = _read(_DISABLED)
    if disabled == "2":
        return (
            "kernel.io_uring_disabled = 2 forbids it to everyone: sysctl kernel.io_uring_disabled=0"
        )
    if disabled == "1":
        return (
            f"kernel.io_uring_disabled = 1 and kernel.io_uring_group = {_read(_GROUP)}: put the "
            "service's group there, or sysctl kernel.io_uring_disabled=0"
        )
    shown = f"kernel.io_uring_disabled = {disabled or 'absent'}"
    if _seccomp_active():
        return (
            f"a seccomp filter forbids it ({shown}): allow io_uring_setup, io_uring_enter and "
            "io_uring_register (containers: a seccomp profile of your own)"
        )
    return f"not permitted ({shown}): look for a security module or a sandbox"


def _seccomp_active() -> bool:
    return "Seccomp:\t2" in (_read(_STATUS) or "")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
