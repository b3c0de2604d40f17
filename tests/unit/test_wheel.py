"""What the wheel carries beside Python's modules, as far as no compiler is needed to know."""

import sys
from pathlib import Path

from tests.support.command_line import REPOSITORY, output_of


def test_no_c_is_in_it(tmp_path: Path) -> None:
    """Its modules are compiled; who builds has the source archive."""
    output_of(
        *(sys.executable, "setup.py", "-q"),
        *("egg_info", "--egg-base", tmp_path),
        *("build_py", "--build-lib", tmp_path / "lib"),
        cwd=REPOSITORY,
    )
    carried = {path.name for path in (tmp_path / "lib" / "raida_uring").rglob("*")}
    assert {"native.py", "status.html", "py.typed"} <= carried
    assert not {name for name in carried if name.endswith((".c", ".h"))}
