"""What the wheel carries beside Python's modules, as far as no compiler is needed to know."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_c_is_in_it(tmp_path: Path) -> None:
    """Its modules are compiled; who builds has the source archive."""
    subprocess.run(
        [
            *(sys.executable, "setup.py", "-q"),
            *("egg_info", "--egg-base", str(tmp_path)),
            *("build_py", "--build-lib", str(tmp_path / "lib")),
        ],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    carried = {path.name for path in (tmp_path / "lib" / "raida_uring").rglob("*")}
    assert {"native.py", "status.html", "py.typed"} <= carried
    assert not {name for name in carried if name.endswith((".c", ".h"))}
