"""Where the `raida-uring` command begins, and `python -m raida_uring`."""

import signal
import sys


def main() -> int:
    """Run the command line of this process and return the exit status.

    Ctrl-C while the program loads ends it without a word, as it does a program in C.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else it was started with the signal ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from raida_uring import cli

    signal.signal(signal.SIGINT, handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
