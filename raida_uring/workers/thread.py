"""What every worker thread does before its first batch and after its last one."""

import errno
import os
import threading
from collections.abc import Sequence
from typing import Final

from raida_uring import remedies
from raida_uring.errors import EngineError, StartError, passing
from raida_uring.ffi import native
from raida_uring.ffi.native_worker import Worker as NativeWorker
from raida_uring.threads import Vital

FAULT_INTERVAL_S: Final = 1.0  # faults of one kind are logged at most this often


class WorkerThread:
    """A thread at one of the engine's mailboxes. Subclasses say what it does with the requests."""

    def __init__(self, engine: native.Engine, index: int, cpus: Sequence[int]) -> None:
        """index: through the lanes, in the order of ru_config_workers(). cpus: where it may run;
        empty: anywhere."""
        self._engine = engine
        self._index = index
        self._cpus = cpus
        self._opened = threading.Event()
        self._fault: OSError | EngineError | None = None
        self.serving = False  # it has a batch that a handler of Python works on
        # A daemon thread: a handler that never returns must not keep the process from ending.
        self.thread: threading.Thread = Vital(target=self._run, name=f"worker-{index}", daemon=True)

    def start(self) -> None:
        """Return once it takes requests. Raises StartError when it cannot."""
        self.thread.start()
        self._opened.wait()
        fault = self._fault
        if fault is None:
            return
        number = (fault.errno if isinstance(fault, OSError) else fault.number) or errno.EINVAL
        remedy = remedies.for_memory() if number == errno.ENOMEM else ""
        why = f"{fault}; {remedy}" if remedy else str(fault)
        refusal = StartError(f"worker {self._index} cannot run: {why}")
        if number == errno.ENOMEM and remedies.is_address_space_limited():
            raise refusal from fault  # does not pass by itself
        raise passing(refusal, number) from fault

    def discard(self) -> None:
        """Release what it has, if its thread was never started or has ended."""

    def _take_requests(self, worker: NativeWorker) -> None:
        """Answer requests until the engine has ended."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            if self._cpus:
                os.sched_setaffinity(0, self._cpus)
            worker = self._engine.open_worker(self._index)
        except (OSError, EngineError) as error:
            self._fault = error
            self.discard()
            return
        finally:
            self._opened.set()
        try:
            self._take_requests(worker)
        finally:
            worker.close()
            self.discard()
