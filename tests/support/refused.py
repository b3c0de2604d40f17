"""The suites in a process that may not use io_uring, as in most containers, on what the node then
chooses by itself.

usage: python -m tests.support.refused CALL ERRNO [ARGUMENTS OF PYTEST]

From the start on, a seccomp filter answers the system call CALL (io_uring_setup, io_uring_enter or
io_uring_register) with ERRNO (EPERM or ENOSYS). Every test that is parametrised with a backend runs
once, with `[network] backend = "auto"`; what does not depend on the backend is left out, since much
of it is about io_uring itself. Exit status as pytest's.
"""

import errno
import sys

import pytest

from tests.support import node
from tests.support.confine import IO_URING_CALLS, refuse_system_call

SUITES = ("tests/integration", "tests/wire", "tests/property")


def main(call: str, code: str, *arguments: str) -> int:
    node.BACKENDS = ("auto",)  # before conftest.py and the tests look at it
    refuse_system_call(IO_URING_CALLS[call], getattr(errno, code))
    chosen = ("-m", "not any_backend", "-p", "no:cacheprovider")
    suites = () if any(not one.startswith("-") for one in arguments) else SUITES
    return int(pytest.main([*chosen, *arguments, *suites]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
