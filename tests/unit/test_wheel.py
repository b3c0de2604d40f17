"""What the wheel carries beside Python's modules, as far as no compiler is needed to know."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_simulated_kernel_is_not_in_it(tmp_path: Path) -> None:
    """It is for tests; the other C sources go with the declarations that they belong to."""
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
    carried = {path.name for path in (tmp_path / "lib" / "raida_uring" / "ffi").iterdir()}
    assert {"ru.h", "backend_epoll.c", "native.py"} <= carried
    assert not {name for name in carried if name.startswith("backend_sim")}
    assert not carried & {"_native.c"}
