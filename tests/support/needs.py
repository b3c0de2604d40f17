"""What single tests need beyond what set-up installs: programs, by Debian's package, IPv6, and
namespaces.

A test that asks here for what is missing is skipped, by name. As `python -m tests.support.needs`,
this says before the tests what would turn which skips into tests.
"""

import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.support.command_line import execute

# Program -> Debian package, what is left out without it.
PROGRAMS: Final = {
    "fish": ("fish", "completion in fish"),
    "fusermount3": ("fuse3", "power cuts"),
    "ip": ("iproute2", "replies over the link that the routing table says"),
    "man": ("man-db", "the manual page as man sees it"),
    "mandoc": ("mandoc", "the manual page as mandoc sees it"),
    "mkfs.ext4": ("e2fsprogs", "power cuts"),
    "promtool": ("prometheus", "alert rules and dashboard as Prometheus sees them"),
    "strace": ("strace", "what the disk was asked for, and what follows when it fails"),
    "systemd-analyze": ("systemd", "the units as systemd sees them"),
    "zsh": ("zsh", "completion in zsh"),
}
# In front of a command: it is killed when the thread that starts it ends, whatever ends that.
DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")


def require(program: str) -> str:
    """The program's path; skips the calling test, naming the package, where it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"no {program} (Debian package {PROGRAMS[program][0]})")
    return path


def ipv6_refusal() -> str | None:
    """Why there is no ::1 in this thread's network; None if there is."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 (AF_INET6, ::1): {error.strerror}"
    return None


def require_descriptors(count: int) -> None:
    """Raises this process's soft limit to `count`; skips the calling test where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"the hard RLIMIT_NOFILE is below {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def require_ipv6() -> None:
    """Skips the calling test where not even loopback has an IPv6 address."""
    if (refusal := ipv6_refusal()) is not None:
        pytest.skip(refusal)


def require_pid_namespace() -> None:
    """Skips the calling test where this user may not make one."""
    if execute("unshare", "--pid", "--fork", "true").returncode != 0:
        pytest.skip("no PID namespace: unshare(CLONE_NEWPID) is not permitted")


@contextmanager
def namespace(kind: str, script: str = "true", *arguments: object) -> Iterator[int]:
    """A process, by its id, that holds a namespace open: "mount" or "net". script: what is done in
    it first, by sh with `arguments` from $0 on; skips the calling test where that fails."""
    with subprocess.Popen(
        [*DIES_WITH_US, "unshare", f"--{kind}"]
        + ["sh", "-c", f"{script} && echo made && exec sleep infinity"]
        + [str(one) for one in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "made\n":
                pytest.skip(f"no {kind} namespace: {holder.stderr.read().strip()}")
            yield holder.pid
        finally:
            holder.kill()


def main() -> None:
    """Print what is missing, or that nothing is."""
    missing = [row for program, row in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        print("every program is installed that a test needs")
        return
    print("not installed, so these tests are skipped, each by name:")
    for package, left_out in missing:
        print(f"    {package:<12} {left_out}")
    print(f"to have them: apt-get install {' '.join(package for package, _ in missing)}")


if __name__ == "__main__":
    main()
