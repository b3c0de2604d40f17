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
    try:
        from raida_uring.cli.main import main as run
    except Exception as error:  # what is short of memory fails in many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"raida-uring: cannot be loaded: {reason}", file=sys.stderr)
        return 1  # may pass: it is being installed, or memory is short

    signal.signal(signal.SIGINT, handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
