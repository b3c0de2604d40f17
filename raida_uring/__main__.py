"""`python -m raida_uring`: the same as the `raida-uring` command."""

import sys

from raida_uring.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
