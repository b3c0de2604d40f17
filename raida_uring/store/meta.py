"""What the base says of a store: its table META. Thread: any."""

from dataclasses import dataclass
from pathlib import Path

from raida_uring.errors import StoreError
from raida_uring.ffi import native_base, native_store
from raida_uring.store import files
from raida_uring.store.layout import (
    CHECKPOINT_KEY,
    FORMAT,
    FORMAT_KEY,
    FORMAT_OF_0_1,
    IDENTITY_KEY,
    LEFT_KEY,
    NO_JOURNAL,
    RAIDA_KEY,
    SEED_KEY,
    SINCE_KEY,
    UNFINISHED_KEY,
)


@dataclass(frozen=True, slots=True)
class Meta:
    """What the base says of the store. identity: of its journal; None: it has none. left: then, the
    identity of one that was abandoned; None: it never had one. since: number of the first batch
    that the base may lack. checkpoint: when the last one ended, seconds
    since 1970."""

    seed: bytes
    identity: bytes | None
    left: bytes | None
    raida_id: int | None
    unfinished: str | None
    since: int
    checkpoint: int | None

    @classmethod
    def of(cls, path: Path, base: native_base.Base) -> "Meta":
        """Raises StoreError: another format, damaged."""
        with base.txn() as txn:
            table = native_base.TABLE_META
            found = txn.get(table, FORMAT_KEY)
            if found == FORMAT_OF_0_1:
                raise StoreError(
                    f"{path}: a store of version 0.1 or 0.2: `raida-uring store convert --store "
                    f"{path}` makes it one of this version"
                )
            if found != FORMAT:
                shown = "none" if found is None else found.decode("ascii", "replace")
                raise StoreError(
                    f"{path}: store of format {shown}, this version reads {FORMAT.decode()}"
                )
            mark, raida = txn.get(table, UNFINISHED_KEY), txn.get(table, RAIDA_KEY)
            identity = txn.get(table, IDENTITY_KEY)
            none = identity == NO_JOURNAL
            if not none and (identity is None or len(identity) != native_store.ID_BYTES):
                raise StoreError(f"{path}: {files.FILE} is damaged: the store's identity is gone")
            checkpoint = txn.get(table, CHECKPOINT_KEY)
            return cls(
                seed=txn.get(table, SEED_KEY) or b"",
                identity=None if none else identity,
                left=txn.get(table, LEFT_KEY),
                raida_id=raida[0] if raida else None,
                unfinished=None if mark is None else mark.decode("utf-8", "replace"),
                since=int.from_bytes(txn.get(table, SINCE_KEY) or b"\1"),
                checkpoint=None if checkpoint is None else int.from_bytes(checkpoint),
            )
