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
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raida_uring.errors import StoreError, passing
from raida_uring.ffi import native_base, native_store
from raida_uring.remedies import user_name

FILE: Final = "data.mdb"
LOCK: Final = "owner"
READERS: Final = "lock.mdb"  # LMDB's
JOURNAL: Final = "journal"  # a directory
WRITER: Final = "writer"  # in it: locked by the process that writes, ffi/coins/writer.h
CONVERTING: Final = (
    "converting"  # a directory: the store that `store convert` makes, until it is done
)
MAKING: Final = "making"  # a directory: the base that create() makes, until it is whole
LOST_AND_FOUND: Final = "lost+found"  # mkfs makes it in the root of a file system

# What to do about faults of the journal.
_REMEDIES: Final = {
    native_store.JOURNAL_DAMAGED: "restore a backup",
    native_store.JOURNAL_MISSING: "restore both from one backup",
    native_store.JOURNAL_FOREIGN: f"restore it together with {FILE}, both from one backup",
    native_store.JOURNAL_NEWER: "install that version",
}


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
    """Return the error; after a denied access, one that names the file and the reason; of a faulty
    journal or page, one that names the file and what helps."""
    reason = str(error).partition(": ")[2]
    if error.number in _REMEDIES:
        remedy = _REMEDIES[error.number]
        return StoreError(f"{path / JOURNAL}: {reason}: {remedy}", error.number)
    if error.number == native_base.BASE_DAMAGED:
        return StoreError(
            f"{path}: {reason}: restore a backup; `raida-uring store verify` names the page",
            error.number,
        )
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
    for one in (path, path / FILE, path / READERS, path / LOCK, *_journal_files(path)):
        if not one.exists():
            continue
        needed = wanted | os.X_OK if one.is_dir() else wanted
        if not os.access(one, needed, effective_ids=True):
            return _why_denied(one, path)
    return None


def _why_denied(one: Path, path: Path) -> str:
    found, user = one.stat(), os.geteuid()
    if os.access(one, os.R_OK, effective_ids=True) and os.statvfs(one).f_flag & os.ST_RDONLY:
        return f"{one}: Read-only file system"
    owner, mode = user_name(found.st_uid), f"{stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid == user or path not in (one, *one.parents):
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


# -- the journal -----------------------------------------------------------------------------------


def _journal_files(path: Path) -> list[Path]:
    """The journal's directory and the files in it, as far as this user may see them."""
    journal = path / JOURNAL
    if not os.access(journal, os.R_OK | os.X_OK, effective_ids=True):
        return [journal]
    try:
        return [journal, *sorted(journal.iterdir())]
    except OSError:
        return [journal]


def journal_bytes(path: Path) -> int:
    """Bytes of the journal's files; a node may be changing them."""
    total = 0
    for file in _journal_files(path)[1:]:
        with contextlib.suppress(OSError):  # the node has let go of it
            total += file.stat().st_size
    return total


def last_change(path: Path) -> float:
    """When a file of the store was last written, seconds since 1970. Raises OSError."""
    newest = (path / FILE).stat().st_mtime
    for file in _journal_files(path)[1:]:
        with contextlib.suppress(OSError):
            newest = max(newest, file.stat().st_mtime)
    return newest


def open_journal(path: Path) -> int:
    """Return a descriptor of the journal's directory. Raises StoreError."""
    journal = path / JOURNAL
    try:
        return os.open(journal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StoreError(
            f"{journal}: is missing: it has the newest changes: restore it together with {FILE}, "
            "both from one backup",
            native_store.JOURNAL_MISSING,
        ) from None
    except NotADirectoryError:
        raise StoreError(f"{journal}: is not a directory") from None
    except PermissionError as error:
        cause = denied(path, os.R_OK) or f"{journal}: {error.strerror}"
        raise StoreError(cause, -errno.EACCES) from error
    except OSError as error:
        raise passing(StoreError(refusal(path, error)), error.errno or 0) from error


def holds_changes(path: Path) -> bool:
    """Whether a journal stands there that has changes in it, of whichever store. Raises
    StoreError."""
    try:
        journal = open_journal(path)
    except StoreError as error:
        if error.number == native_store.JOURNAL_MISSING:
            return False
        raise
    try:
        return native_store.journal_holds(journal)
    except StoreError as error:
        raise explained(path, error) from error
    finally:
        os.close(journal)


def open_writer(path: Path) -> int:
    """Open the file that the journal's writer locks, creating it if needed. Raises OSError."""
    return _open_owned(path / JOURNAL / WRITER, path / FILE)


def remove_journal(path: Path) -> None:
    """Remove the journal, which nobody has open. Raises OSError."""
    journal = path / JOURNAL
    if journal.is_dir():
        for file in journal.iterdir():
            file.unlink()
        journal.rmdir()


# -- making and removing ---------------------------------------------------------------------------


def remove(path: Path) -> None:
    """Remove a store that nobody else has open, and its directory if nothing else is in it. Raises
    OSError."""
    (path / FILE).unlink(missing_ok=True)
    remove_journal(path)
    if (path / MAKING).is_dir() and not (path / MAKING).is_symlink():
        remove(path / MAKING)
    for name in (READERS, LOCK):
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def refuse_existing(path: Path) -> None:
    if os.path.lexists(path / FILE):
        raise StoreError(f"{path}: holds a store already")
    if holds_changes(path):
        raise StoreError(
            f"{path / JOURNAL}: holds changes of a store whose {FILE} is missing: restore that, or "
            "move the journal away"
        )


def clear(made: Path) -> None:
    """Remove what a killed process left where a store is made. Raises StoreError, OSError."""
    if not os.path.islink(made):  # which could lead anywhere
        remove(made)
    if os.path.lexists(made):
        raise StoreError(f"{made}: is in the way: move it away")


def refuse_used(target: Path) -> None:
    """Raise StoreError if something stands at `target` that is not an empty directory, which may
    have lost+found."""
    try:
        used = set(os.listdir(target)) - {LOST_AND_FOUND}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StoreError(f"{target}: is not a directory") from None
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from error
    if used:
        raise StoreError(f"{target}: is not empty")


def give(made: Path, like: Path) -> None:
    """Give a directory, and all in it, to the owner of `like`, if root made it. Raises OSError."""
    owner = os.stat(like)
    if os.geteuid() == 0 != owner.st_uid:
        for one in (made, *made.rglob("*")):
            os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


# -- the lock --------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """A `with` block during which no other process serves, fills or converts the store. Raises
    StoreError, also for an OSError within the block."""
    try:
        owner = acquire(path)
        try:
            yield
        finally:
            os.close(owner)
    except OSError as error:
        raise passing(StoreError(refusal(path, error)), error.errno or 0) from error


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
    """Open the lock file, creating it if needed. Raises OSError."""
    return _open_owned(path / LOCK, path / FILE)


def _open_owned(file: Path, data: Path) -> int:
    """Open a file of the store, creating it if needed. Raises OSError.

    If root creates it, the file gets owner and mode of data.mdb, as in ffi/coins/base.c: otherwise
    the store's owner could not lock it later. An existing file keeps its owner. No link is
    followed: the store's owner could have made one that lets root write elsewhere.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        opened = os.open(file, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(file, flags, 0o600)
    with contextlib.suppress(OSError):  # there is no store yet
        owner = os.stat(data)
        if os.geteuid() == 0 != owner.st_uid:
            os.fchown(opened, owner.st_uid, owner.st_gid)
            os.fchmod(opened, owner.st_mode & 0o666)
    return opened


def sign(lock: int) -> None:
    """Write this process's id into the lock file, for error messages of other processes."""
    with contextlib.suppress(OSError):  # a node must start even on a full disk
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)  # two processes share the file's position


def is_lock_of(path: Path, owner: int) -> bool:
    """Whether the open file is the one that has the lock's name."""
    return _is_named(f"{path}/{LOCK}", owner)


def _is_named(name: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
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
