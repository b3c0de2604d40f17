"""Tries raida-uring.service under the systemd that runs here. Root, in a machine of its own.

Each check says what must hold and prints one line, PASS or FAIL, with what was seen; the last line
is END. Run by tools/systemd/guest.sh after the node is installed; names in /mnt/out/checks choose
some of them.
"""

import os
import pathlib
import signal
import time
import traceback

# Imported, they register their checks.
from tools.systemd import checks_log, checks_service, checks_start  # noqa: F401
from tools.systemd.proof import (
    CONFIG,
    DRAWN_NAP,
    LONG_NAP,
    MODULES,
    NAP,
    WATCHDOG_S,
    NotSoError,
    checks,
    extended,
    systemctl,
)


def prepare() -> None:
    """Handlers that the checks need."""
    MODULES.mkdir(exist_ok=True)
    naps = (
        "import time\n\nfrom raida_uring.handlers import Node, Reply, Request, command\n\n\n"
        f'@command(group={NAP[0]}, code={NAP[1]}, mode="slow")\n'
        "def nap(request: Request, node: Node) -> Reply:\n    time.sleep(2)\n    return Reply()\n\n"
        f'@command(group={DRAWN_NAP[0]}, code={DRAWN_NAP[1]}, mode="slow")\n'
        "def drawn_nap(request: Request, node: Node) -> Reply:\n"
        "    time.sleep(6)\n    return Reply()\n\n"
        f'@command(group={LONG_NAP[0]}, code={LONG_NAP[1]}, mode="slow")\n'
        "def long_nap(request: Request, node: Node) -> Reply:\n"
        f"    time.sleep({3 * WATCHDOG_S})\n    return Reply()\n"
    )
    (MODULES / "naps.py").write_text(naps)
    (MODULES / "slow_import.py").write_text(naps + "\n\ntime.sleep(3)\n")


def main() -> None:
    """Run the chosen checks one after the other."""
    signal.alarm(1700)
    chosen = pathlib.Path("/mnt/out/checks").read_text().split()
    prepare()
    version = systemctl("--version").splitlines()[0]
    print(f"systemd: {version}; kernel {os.uname().release}")
    right = CONFIG.read_text()
    for one in checks:
        if chosen and one.__name__ not in chosen:
            continue
        title = (one.__doc__ or "").splitlines()[0]
        began = time.monotonic()
        try:
            seen = one()
        except NotSoError as error:
            print(f"FAIL {one.__name__}: {title}: {error}")
        except Exception:
            print(f"FAIL {one.__name__}: {title}:\n{traceback.format_exc()}")
        else:
            print(f"PASS {one.__name__}: {title}: {seen} [{time.monotonic() - began:.0f} s]")
        CONFIG.write_text(right)
        extended("")
    print("END")


if __name__ == "__main__":
    main()
