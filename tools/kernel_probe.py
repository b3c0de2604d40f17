#!/usr/bin/env python3
"""What this machine grants the node: `raida-uring probe`, where only the package is at hand."""

import sys

from raida_uring.cli import main

if __name__ == "__main__":
    sys.exit(main(["probe", *sys.argv[1:]]))
