#!/usr/bin/env python3
"""What this machine grants the node: `raida-uring probe`, where only the package is at hand.

Runs from anywhere, with a Python that has the package; options and exit status are those of
`raida-uring probe`. Without the package nothing is tried: one line says so, exit status 2.
"""

import sys

if __name__ == "__main__":
    try:
        from raida_uring.cli.main import main
    except ImportError as error:
        print(f"kernel_probe: the package raida_uring cannot be imported: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(["probe", *sys.argv[1:]]))
