"""The systemd units, as systemd's own tools judge them.

What must hold: they have no fault, and the service's sandbox gets no weaker. `make test-systemd`
tests them under a running systemd.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import execute
from tests.support.needs import require

UNITS = Path(__file__).parents[2] / "systemd"
EXPOSURE_MAX = "20"  # tenths: 2.0

pytestmark = pytest.mark.any_backend


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return execute(require("systemd-analyze"), "--no-pager", *arguments)


def test_exposure_of_the_service() -> None:
    done = analyze(
        "security",
        "--offline=yes",
        f"--threshold={EXPOSURE_MAX}",
        str(UNITS / "raida-uring.service"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_units_have_no_fault(tmp_path: Path) -> None:
    """Where the program is not installed: with another that is executable in its place."""
    for name in ("raida-uring.service", "raida-uring.socket"):
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/raida-uring/bin/raida-uring", "/bin/true"))
    for name in ("raida-uring.service", "raida-uring.socket"):
        done = analyze("verify", "--man=no", str(tmp_path / name))
        ours = [line for line in done.stderr.splitlines() if "raida-uring" in line]
        assert not ours, done.stderr


def test_the_node_is_told_how_many_descriptors_are_stored() -> None:
    """Before version 254 systemd does not say so itself: the unit says it twice."""
    lines = (UNITS / "raida-uring.service").read_text().splitlines()
    (room,) = [line for line in lines if line.startswith("FileDescriptorStoreMax=")]
    (told,) = [line for line in lines if line.startswith("Environment=FDSTORE=")]
    assert room.split("=")[-1] == told.split("=")[-1]
