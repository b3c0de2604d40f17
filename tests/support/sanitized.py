"""What differs where the C modules are built under the address sanitizer, as `make sanitize` does.

As a plugin of pytest (`-p tests.support.sanitized`), this looks for leaks in each process that has
run tests, once they have ended; the sanitizer writes what it finds to its report.
"""

import ctypes
import gc
from typing import Final

import pytest

_RUNTIME: Final = ctypes.CDLL(None)
# The sanitizer's runtime is in this process; the programs that tests start preload it, too.
SANITIZED: Final = hasattr(_RUNTIME, "__asan_init")


def _unless_sanitized(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(SANITIZED, reason=f"not under the address sanitizer, which {why}")


# Marks of tests whose programs end in the sanitizer's runtime, before they come to their subject.
LIMITS_MEMORY: Final = _unless_sanitized(
    "reserves 14 TiB at once: RLIMIT_AS and RLIMIT_DATA count them"
)
HIDES_PROC: Final = _unless_sanitized("reads its options from /proc/self/environ")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Look for leaks among what the tests of this process have allocated."""
    gc.collect()
    _RUNTIME.__lsan_do_recoverable_leak_check()
