"""`raida-uring store`: make, fill, save, check, describe or convert a coin store."""

import json
import re
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from raida_uring import config
from raida_uring.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, complain, guide
from raida_uring.cli.options import Json, config_option, load_config
from raida_uring.errors import ConfigError
from raida_uring.store import AN_BYTES, COIN_BYTES, Store, files, month_now
from raida_uring.store.files import printable

app = typer.Typer(help="Make, fill, save, check, describe or convert a coin store.")

_ConfigOption = Annotated[
    Path | None,
    config_option("TOML file that says where the store is, and how large it may grow."),
]
_StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        readable=False,
        help="The store's directory. Either it or --config is needed.",
    ),
]
_SHOWN_MAX: Final = 20  # lines of one kind; further ones are counted
_PROGRESS_INTERVAL_S: Final = 0.1

# Of `init --demo`.
_DENOMINATION: Final = 0  # a coin of 1
_SERIAL_NUMBER: Final = 1
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where a wildcard is asked

_SCRIPT: Final = """\
# {path}: a demonstration store. One coin is in circulation:
# denomination {den}, serial number {sn}, AN {an}
# Start the node that serves the store, then run these lines with Python.
from raida_uring.client import Client, Coin, calls

node = Client("{host}", {port}, raida_id={raida_id}, coin_id={coin_id})
coin = Coin(den={den}, sn={sn}, an=bytes.fromhex("{an}"))
new_an = bytes.fromhex("{new_an}")

print("detect, its AN:    ", node.ask(calls.detect([coin])).require().all_passed)
print("pown, a new AN:    ", node.ask(calls.pown([(coin, new_an)])).require().all_passed)
print("detect, the old AN:", node.ask(calls.detect([coin])).require().all_passed)
"""


def _choose_store(config_path: Path | None, path: Path | None) -> tuple[Path, int, config.Config]:
    """The store's directory, the most bytes that it may grow to, and whose store it is."""
    if (config_path is None) == (path is None):
        both = "" if path is None else ", not both"
        raise typer.BadParameter(f"say which store: --config FILE or --store DIR{both}")
    served = load_config(config_path)
    if path is None:
        if served.store.path is None:
            raise ConfigError(f"{config_path}: [store] path is not set")
        path = Path(served.store.path)
    return path, served.store.size_mib << 20, served


class _Progress:
    """A progress line on standard error, overwritten in place; nothing if it is no terminal."""

    def __init__(self, doing: str, interrupted: str | None = None) -> None:
        """interrupted: what a Ctrl-C leaves behind, in words."""
        self._doing = doing
        self._interrupted = interrupted
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        if not self._shown or (time.monotonic() < self._next_s and done < total):
            return
        self._next_s = time.monotonic() + _PROGRESS_INTERVAL_S
        bar = "#" * (30 * done // total)
        line = f"{self._doing} [{bar:<30}] {100 * done // total:3} %"
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._width:
            print(f"\r{'':{self._width}}\r", end="", file=sys.stderr, flush=True)
        if kind is KeyboardInterrupt and self._interrupted is not None:
            raise typer.Exit(complain(self._interrupted, EXIT_INTERRUPTED))


def _new_directory(metavar: str) -> Any:
    """The argument of commands that fill a directory."""
    return typer.Argument(
        metavar=metavar, readable=False, help="Directory that is empty, or not there."
    )


@app.command("init")
def init(
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="For tests: what the ANs of new coins are made from, instead of a secret.",
        ),
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Put one coin into circulation and print Python lines that pown it.",
        ),
    ] = False,
) -> None:
    """Make an empty store: no coin is in circulation.

    The ANs of all coins are derived from a random secret.
    """
    if seed is not None and not re.fullmatch("[!-~]{1,64}", seed):
        raise typer.BadParameter("--seed takes 1 to 64 printable ASCII characters")
    chosen, map_bytes, served = _choose_store(config_path, path)
    Store.create(chosen, seed=seed, map_bytes=map_bytes)
    if demo:
        an = _circulate(chosen, map_bytes)
        print(_script(printable(chosen), an, served), end="")
        return
    print(f"{printable(chosen)}: empty store made, may grow to {map_bytes >> 20} MiB")
    if config_path is None:
        print(f"Serve it with `path` of [store], see {guide('configure.md')}.")


def _circulate(path: Path, map_bytes: int) -> bytes:
    """Put one coin of the new store at `path` into circulation and return its AN.

    Raises StoreError, and removes the store, when the coin cannot be written.
    """
    an = secrets.token_bytes(AN_BYTES)
    store = Store(path, map_bytes=map_bytes)
    try:
        with store.write() as coins:
            coin = bytes([_DENOMINATION]) + _SERIAL_NUMBER.to_bytes(4) + an
            coins.set(coin, 1, COIN_BYTES + AN_BYTES, month_now())
    except BaseException:
        files.remove(path)
        raise
    finally:
        store.close()
    return an


def _script(path: str, an: bytes, chosen: config.Config) -> str:
    """A Python program that asks the node of `chosen` to detect the coin, pown it, detect it."""
    bound = chosen.network.bind[0]
    return _SCRIPT.format(
        path=path,
        den=_DENOMINATION,
        sn=_SERIAL_NUMBER,
        an=an.hex(),
        new_an=secrets.token_hex(AN_BYTES),
        host=_LOOPBACK.get(bound, bound),
        port=chosen.server.port or config.FIRST_PORT + chosen.server.raida_id,
        raida_id=chosen.server.raida_id,
        coin_id=chosen.server.coin_id,
    )


@app.command("import")
def import_files(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_DIR", readable=False, help="`Data` of a reference server, stopped."
        ),
    ],
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
) -> None:
    """Fill a new store with the coins of a reference server.

    Makes the store unless an empty one is there. Files that are short, missing or longer than a
    page are kept as they are. An interrupted import leaves a store that no node serves: import
    again.
    """
    chosen, map_bytes, _ = _choose_store(config_path, path)
    from raida_uring.store import transfer

    left = f"{chosen}: interrupted: holds only a part of the coins; import again"
    with _Progress("importing", left) as progress:
        found = transfer.import_files(data, chosen, map_bytes=map_bytes, progress=progress)
    for name in found.unknown[:_SHOWN_MAX]:
        complain(f"warning: {name} is no page file, not imported")
    if found.unknown_count > _SHOWN_MAX:
        complain(f"warning: {found.unknown_count - _SHOWN_MAX} further files are no page files")
    if found.missing or found.short:
        complain(
            f"warning: {found.missing} page files are missing and {found.short} too short: "
            "their coins cannot be read"
        )
    print(
        f"{printable(chosen)}: imported {found.whole + found.longer} pages, {found.short} short "
        f"files, {found.missing} missing ones; {found.longer} were longer than a page"
    )


@app.command("export")
def export_files(
    target: Annotated[Path, _new_directory("DATA_DIR")],
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
) -> None:
    """Write a store as a reference server's `Data` directory.

    All files show the same moment; the node may be running. An imported store is exported byte for
    byte, except for coins that have changed since.
    """
    chosen, *_ = _choose_store(config_path, path)
    from raida_uring.store import transfer

    left = f"{target}: interrupted: not all files are there; remove it"
    with _Progress("exporting", left) as progress:
        written = transfer.export_files(chosen, target, progress=progress)
    print(
        f"{printable(target)}: {written.files} files written"
        + (f", {written.missing} missing as they were imported" if written.missing else "")
    )


@app.command("backup")
def backup(
    target: Annotated[Path, _new_directory("BACKUP_DIR")],
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
) -> None:
    """Copy a store; the node may be running.

    The copy is a store, of one moment, that a node can serve: to restore it, put it where `path` of
    [store] says. An interrupted backup leaves one that no node serves.
    """
    chosen, *_ = _choose_store(config_path, path)
    from raida_uring.store.backup import backup as copy

    left = f"{target}: interrupted: not all of the store is there; remove it"
    with _Progress("copying", left) as progress:
        written = copy(chosen, target, progress=progress)
    print(f"{printable(target)}: {written} pages copied")


@app.command("convert")
def convert(config_path: _ConfigOption = None, path: _StoreOption = None) -> None:
    """Take over a store of version 0.1 or 0.2, in place.

    The node must be stopped. The old file stays beside the new one, as data.mdb.format-1. Convert
    again after an interruption.
    """
    chosen, map_bytes, _ = _choose_store(config_path, path)
    from raida_uring.store import convert as conversion

    left = f"{chosen}: interrupted: convert again, nothing is lost"
    with _Progress("converting", left) as progress:
        pages = conversion.convert(chosen, map_bytes=map_bytes, progress=progress)
    print(f"{printable(chosen)}: {pages} pages converted, the old file is now {conversion.KEPT}")


@app.command("verify")
def verify(config_path: _ConfigOption = None, path: _StoreOption = None) -> int:
    """Check a store; the node may be running.

    Reads every byte of data.mdb and journal, and compares them with their checksums and with saved
    leaves of the integrity trees. Exits 1 and prints what is wrong if it finds a fault.
    """
    chosen, *_ = _choose_store(config_path, path)
    from raida_uring.store.verify import verify as find_faults

    with _Progress("verifying") as progress:
        faults = find_faults(chosen, progress=progress)
    for fault in faults[:_SHOWN_MAX]:
        print(fault)
    if len(faults) > _SHOWN_MAX:
        print(f"and {len(faults) - _SHOWN_MAX} more")
    if not faults:
        print(f"{printable(chosen)}: correct")
    return EXIT_FAILED if faults else 0


@app.command("stat")
def stat(
    config_path: _ConfigOption = None,
    path: _StoreOption = None,
    as_json: Json = False,
) -> None:
    """Describe a store; the node may be running.

    Sizes, pages, coins in circulation, the journal and the last change.
    """
    chosen, *_ = _choose_store(config_path, path)
    from raida_uring.store.verify import stat as describe

    found = describe(chosen)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.table().rstrip("\n"))
