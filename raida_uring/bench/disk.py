"""How long the disk takes for what a lone change needs of it: one block over an old one, flushed.

Thread: any.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 4096  # of an entry of the journal
FILE_BYTES: Final = 4 << 20
SYNCS: Final = 250


def sync_us(directory: Path) -> float:
    """Overwrite blocks of a file in `directory` one after the other, each with a flush
    (fdatasync) of its own; return the median of how long each took, microseconds. Raises
    OSError."""
    block = b"\x5a" * BLOCK_BYTES
    took = []
    with tempfile.TemporaryFile(dir=directory) as file:
        descriptor = file.fileno()
        os.write(descriptor, bytes(FILE_BYTES))  # written, so that no flush changes metadata
        os.fsync(descriptor)
        for number in range(SYNCS):
            before = time.perf_counter_ns()
            os.pwrite(descriptor, block, number * BLOCK_BYTES % FILE_BYTES)
            os.fdatasync(descriptor)
            took.append((time.perf_counter_ns() - before) / 1000)
    return statistics.median(took)
