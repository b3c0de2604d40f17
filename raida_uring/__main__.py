"""Entry point of the `raida-uring` command and of `python -m raida_uring`."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process and return the exit status.

    Ctrl-C while the program loads ends it without a message, as it does a program in C; a request
    to reload waits until the node can hear it.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # otherwise SIGINT was ignored at the start
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from raida_uring import signals

        if sys.argv[1:2] == ["serve"]:
            signals.protect_start_and_end()
        from raida_uring.cli.main import main as run
    except Exception as error:  # a lack of memory raises many kinds of exceptions
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"raida-uring: cannot be loaded: {reason}", file=sys.stderr)
        return 1  # temporary: the package is being installed, or memory is short

    signal.signal(signal.SIGINT, handler)
    try:
        return run()
    except MemoryError:  # even for the line that says so
        os.write(2, b"raida-uring: out of memory\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
