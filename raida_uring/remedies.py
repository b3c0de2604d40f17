"""What helps where the machine refuses something: the cause is looked for, not guessed.

One error number has several causes, and a remedy for another one sends an operator the wrong way.
Thread: any.
"""

import errno
import mmap
import os
import pwd
import resource
import stat
from pathlib import Path
from typing import Final

_STACK_BYTES: Final = 16 << 20  # more than a thread takes
_FILTERED: Final = "a seccomp filter, as of a container engine, refuses one"


def for_threads() -> str:
    """What to do when Python "can't start new thread", which does not tell why. Call it while the
    threads that there are still run."""
    # The limits first: where they bind, there is no room for what looks further, either.
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
    """What to do when there is no memory even for something small. Empty where nothing is known to
    help."""
    if is_address_space_limited():
        return "raise LimitAS= (ulimit -v)"
    return "raise LimitDATA= (ulimit -d)" if _is_limited(resource.RLIMIT_DATA) else ""


def for_node_memory(number: int) -> str:
    """What to do when the memory that node and workers share cannot be had. number: the errno.
    Empty where nothing is known to help."""
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
    """What to do when a store that may grow to `map_bytes` finds no room for its mapping."""
    what = f"a store of up to {map_bytes >> 20} MiB needs as much address space"
    if is_address_space_limited():
        return f"{what}: raise LimitAS= (ulimit -v), or lower [store] size_mib"
    return f"{what}: lower [store] size_mib"


def is_address_space_limited() -> bool:
    """Whether `ulimit -v` says how much this process may map."""
    return _is_limited(resource.RLIMIT_AS)


def _is_limited(kind: int) -> bool:
    return resource.getrlimit(kind)[0] != resource.RLIM_INFINITY


def _can_map(size: int, flags: int = mmap.MAP_SHARED) -> bool:
    """flags: what is private, as a stack, counts as data, too."""
    try:
        mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def _thread_error() -> int:
    """The errno of a thread that is started without Python, 0 when it starts."""
    import ctypes  # not for every `ping`

    library = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    error: int = library.pthread_create(ctypes.byref(thread), None, library.getpid, None)
    if error == 0:
        library.pthread_join(thread, None)
    return error


def user_name(number: int) -> str:
    """A user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def describe_owner(path: Path) -> str:
    """Owner and mode of what is at `path`, or of the directory above it that is closed to this
    user, and who that is."""
    for one in (*reversed(path.parents), path):
        if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True):
            return f"{one} {_of(one)}"
    return f"it {_of(path)}"


def _of(path: Path) -> str:
    found = path.stat()
    whose = f"belongs to {user_name(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o})"
    return f"{whose}, and this is user {user_name(os.geteuid())}"
