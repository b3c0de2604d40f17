"""The files of a store: their existence, their permissions, and the lock on the store.

A node holds a lock on a file next to the data, so that two processes never serve the same store.
Thread: control.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError, passing
from raida_uring.remedies import user_name

FILE: Final = "data.mdb"
LOCK: Final = "owner"
READERS: Final = "lock.mdb"  # LMDB's
_FILES: Final = (FILE, LOCK, READERS)


def size_of(path: Path) -> int:
    """Return the size of the store's file in bytes. Raises StoreError if there is no store."""
    try:
        found = (path / FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path}: is not a directory") from None
        raise StoreError(
            f"{path.absolute()}: not a store: is its disk mounted? "
            "`raida-uring store init` makes a new one"
        ) from None
    except OSError as error:
        raise passing(StoreError(refusal(path, error)), error.errno or 0) from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: not a store: {FILE} is not a file")
    if found.st_size == 0:
        raise StoreError(f"{path}: {FILE} is damaged: it is empty")
    if (path / READERS).exists() and not (path / READERS).is_file():
        raise StoreError(f"{path}: not a store: {READERS} is not a file")
    return found.st_size


def explained(path: Path, error: StoreError, *, writing: bool = False) -> StoreError:
    """Return the error; after a denied access, one that names the file and the reason."""
    if error.number not in (-errno.EACCES, -errno.EPERM):
        return error
    cause = denied(path, os.R_OK | os.W_OK if writing else os.R_OK)
    return error if cause is None else StoreError(cause, error.number)


def refusal(path: Path, error: OSError) -> str:
    """Return a message for an OSError on the store at `path`, with the file concerned."""
    cause = None
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        cause = denied(path, os.R_OK | os.W_OK)
    if error.errno == errno.ELOOP:
        cause = f"{error.filename or path}: is a symbolic link, which is not followed: remove it"
    return cause or f"{error.filename or path}: {error.strerror}"


def denied(path: Path, wanted: int) -> str | None:
    """Return why this user may not use a directory or file of a store, or None.

    wanted: os.R_OK, os.W_OK or both.
    """
    for one in (*reversed(path.parents), path):
        if one.is_dir() and not os.access(one, os.X_OK, effective_ids=True):
            return _why_denied(one, path)
    for one in (path, path / FILE, path / READERS, path / LOCK):
        if one.exists() and not os.access(one, wanted, effective_ids=True):
            return _why_denied(one, path)
    return None


def _why_denied(one: Path, path: Path) -> str:
    found, user = one.stat(), os.geteuid()
    if os.access(one, os.R_OK, effective_ids=True) and os.statvfs(one).f_flag & os.ST_RDONLY:
        return f"{one}: Read-only file system"
    owner, mode = user_name(found.st_uid), f"{stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid == user or one not in (path, *(path / file for file in _FILES)):
        return f"{one}: Permission denied: its mode is {mode}, its owner {owner}"
    name = user_name(user)
    return (
        f"{one}: Permission denied: it belongs to {owner} (mode {mode}), and this is user {name}: "
        f"`chown -R {name} {path}` makes the store this user's"
    )


def check_size(path: Path, size: int, map_bytes: int) -> None:
    if size > map_bytes:
        raise StoreError(
            f"{path}: has {size >> 20} MiB, more than the {map_bytes >> 20} MiB allowed: "
            "raise [store] size_mib"
        )


def refuse_existing(path: Path) -> None:
    if os.path.lexists(path / FILE):
        raise StoreError(f"{path}: holds a store already")


def acquire(path: Path) -> int:
    """Lock the store for this process and return the lock's descriptor.

    Raises StoreError if another process has the lock, OSError.
    """
    while True:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError):
                owner = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            raise passing(
                StoreError(f"{path}: in use by process {owner or '?'}"), busy=True
            ) from None
        except OSError:
            os.close(lock)
            raise
        if is_lock_of(path, lock):
            break
        os.close(lock)  # its previous holder has removed the file meanwhile: lock the new one
    sign(lock)
    return lock


def _open_lock(path: Path) -> int:
    """Open the lock file, creating it if needed. Raises OSError.

    If root creates it, the file gets owner and mode of data.mdb, as in ffi/coins/store.c: otherwise
    the store's owner could not lock it later. An existing file keeps its owner. No link is
    followed: the store's owner could have made one that lets root write elsewhere.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path / LOCK, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path / LOCK, flags, 0o600)
    with contextlib.suppress(OSError):  # there is no store yet
        data = os.stat(path / FILE)
        if os.geteuid() == 0 != data.st_uid:
            os.fchown(lock, data.st_uid, data.st_gid)
            os.fchmod(lock, data.st_mode & 0o666)
    return lock


def sign(lock: int) -> None:
    """Write this process's id into the lock file, for error messages of other processes."""
    with contextlib.suppress(OSError):  # a node must start even on a full disk
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)  # two processes share the file's position


def is_lock_of(path: Path, owner: int) -> bool:
    os.set_inheritable(owner, False)
    try:
        return os.path.samestat(os.fstat(owner), os.stat(path / LOCK))
    except OSError:
        return False


def sync_directory(path: Path) -> None:
    """Flush a directory: only then do its new files survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def printable(path: Path) -> str:
    """Return the path as printable text; it may hold control characters, and bytes that are not
    UTF-8."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", text)
