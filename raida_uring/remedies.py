"""Remedies for errors of the machine, chosen by finding the actual cause.

One errno has several causes, and the remedy for the wrong one misleads the operator. Thread: any.
"""

import errno
import mmap
import os
import pwd
import resource
import stat
from pathlib import Path
from typing import Final

_STACK_BYTES: Final = 16 << 20  # more than a thread's stack
_FILTERED: Final = "a seccomp filter, as of a container engine, refuses one"


def for_threads() -> str:
    """Return the remedy for Python's "can't start new thread", which hides the cause. Call it while
    the existing threads still run."""
    # The limits first: where they apply, the further checks have no room, either.
    if is_address_space_limited() and not _can_map(_STACK_BYTES):
        return "the limit on address space leaves no room for its stack: raise LimitAS= (ulimit -v)"
    if _is_limited(resource.RLIMIT_DATA) and not _can_map(_STACK_BYTES, mmap.MAP_PRIVATE):
        return "the limit on data leaves no room for its stack: raise LimitDATA= (ulimit -d)"
    if _thread_error() == errno.EPERM:
        return (
            "clone3() is not permitted: the container engine's seccomp filter is too old for this "
            "C library: update the engine (Docker 20.10.10 or later)"
        )
    return "raise TasksMax= (ulimit -u)"


def for_memory() -> str:
    """Return the remedy for a lack of memory even for small objects; empty if none is known."""
    if is_address_space_limited():
        return "raise LimitAS= (ulimit -v)"
    return "raise LimitDATA= (ulimit -d)" if _is_limited(resource.RLIMIT_DATA) else ""


def for_node_memory(number: int) -> str:
    """Return the remedy if the memory shared by loop and workers cannot be allocated; empty if none
    is known. number: the errno."""
    if number == errno.ENOMEM and is_address_space_limited():
        return "raise LimitAS= (ulimit -v), or lower [udp], [limits] or [tcp] sizes"
    if number in (errno.ENOMEM, errno.ENOSPC):
        return "lower [udp], [limits] or [tcp] sizes"
    if number == errno.EFBIG:
        return "raise LimitFSIZE= (ulimit -f)"
    if number in (errno.EPERM, errno.EACCES):
        return f"memfd_create() and fallocate() are needed: {_FILTERED}"
    if number in (errno.ENOSYS, errno.EOPNOTSUPP):
        return f"memfd_create() and fallocate() are needed: the kernel lacks one, or {_FILTERED}"
    if number in (errno.EMFILE, errno.ENFILE):
        return "raise LimitNOFILE= (ulimit -n)"
    return ""


def for_store_memory(map_bytes: int) -> str:
    """Return the remedy if a store of up to `map_bytes` cannot be mapped."""
    what = f"a store of up to {map_bytes >> 20} MiB needs as much address space"
    if is_address_space_limited():
        return f"{what}: raise LimitAS= (ulimit -v), or lower [store] size_mib"
    return f"{what}: lower [store] size_mib"


def for_coins_memory(size: int, number: int) -> str:
    """Return the remedy if the coins, `size` bytes, have no room in memory. number: the errno."""
    what = f"the coins need up to {size >> 20} MiB of shared memory, and as much address space"
    if number == errno.EFBIG:
        return f"{what}: raise LimitFSIZE= (ulimit -f)"
    if number == errno.ENOMEM and is_address_space_limited():
        return f"{what}: raise LimitAS= (ulimit -v)"
    return f"{what}: raise MemoryMax= of the service, or give the machine more memory"


def is_address_space_limited() -> bool:
    """Whether `ulimit -v` limits this process."""
    return _is_limited(resource.RLIMIT_AS)


def _is_limited(kind: int) -> bool:
    return resource.getrlimit(kind)[0] != resource.RLIM_INFINITY


def _can_map(size: int, flags: int = mmap.MAP_SHARED) -> bool:
    """flags: a private mapping, such as a stack, also counts towards RLIMIT_DATA."""
    try:
        mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def _thread_error() -> int:
    """Start a thread without Python; returns its errno, 0 if it starts."""
    import ctypes  # here, because importing it would slow every `ping`

    library = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    error: int = library.pthread_create(ctypes.byref(thread), None, library.getpid, None)
    if error == 0:
        library.pthread_join(thread, None)
    return error


def user_name(number: int) -> str:
    """Return a user's name, or the number if the user has no name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def describe_owner(path: Path) -> str:
    """Return owner and mode of `path`, or of a directory above it that this user may not enter,
    and the name of this user."""
    for one in (*reversed(path.parents), path):
        if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True):
            return f"{one} {_of(one)}"
    return f"it {_of(path)}"


def _of(path: Path) -> str:
    found = path.stat()
    whose = f"belongs to {user_name(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o})"
    return f"{whose}, and this is user {user_name(os.geteuid())}"
