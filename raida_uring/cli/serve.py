"""`raida-uring serve`: run the node."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from raida_uring import config, log
from raida_uring.cli.console import EXIT_FAILED, complain
from raida_uring.cli.options import Backend, add_module_path, config_option, load_config
from raida_uring.errors import RaidaError
from raida_uring.log import events

# The months that a coin's record can hold begin in February 2023 and end 256 later.
_YEARS: Final = range(2023, 2045)


def serve(
    config_path: Annotated[
        Path | None,
        config_option("TOML file. Without it: RAIDA 0 on 127.0.0.1:50000 with a random admin key."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="IP address to listen on, instead of those in the file."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="UDP and TCP port, instead of the file's; 0 takes a free one."
        ),
    ] = None,
    backend: Backend = None,
) -> int:
    """Run the node until SIGTERM or Ctrl-C.

    The first signal lets requests in flight finish; a second one does not wait for them.
    """

    def read() -> config.Config:
        given = load_config(config_path)
        return config.with_overrides(given, host=host, port=port, backend=backend)

    chosen = read()
    log.configure(chosen.log.level, form=chosen.log.format)
    log.guard_process()
    if config_path is not None:
        add_module_path(config_path)
    _log_risks(chosen, config_path)

    # Not at the top of the file: other commands do not need it.
    from raida_uring.node.daemon import serve as serve_until_stopped

    try:
        serve_until_stopped(chosen, None if config_path is None else read, config_path)
    except RaidaError as error:
        if not error.passes:
            raise
        return complain(str(error), EXIT_FAILED)
    return 0


def _log_risks(chosen: config.Config, config_path: Path | None) -> None:
    """What an operator should know of the configuration and the machine before the node serves."""
    year = time.gmtime().tm_year
    if year not in _YEARS:  # the month of a change and the life of a ticket are taken from it
        events.CLOCK_ABSURD.log(year=year)
    if config_path is None:
        events.DEFAULT_CONFIG.log()
    else:
        exposed = config.exposed_keys(config_path, chosen)
        if exposed is not None:
            events.CONFIG_EXPOSED.log(fault=exposed)
    if os.geteuid() == 0:
        events.RUNS_AS_ROOT.log()
    _warn_of_pages(chosen)


def _warn_of_pages(chosen: config.Config) -> None:
    # Not at the top of the file: handlers are imported by commands that need them.
    from raida_uring.handlers import page_readers

    readers = page_readers.handed_to(chosen)
    if readers == "all":
        events.PAGES_FOR_ALL.log()
    elif readers == "peers":
        events.PAGES_FOR_PEERS.log()


def plain_options(argv: Sequence[str]) -> dict[str, Any] | None:
    """The arguments of serve() when `argv` calls it with full option names, each followed by its
    value; None: typer must parse it.

    A node starts in three quarters of the time without typer's parser, which loads pydantic.
    """
    names = {"--config": "config_path", "--host": "host", "--port": "port", "--backend": "backend"}
    options, values = argv[1::2], argv[2::2]
    if argv[:1] != ["serve"] or len(options) != len(values) or not names.keys() >= set(options):
        return None
    if len(set(options)) != len(options) or any(value.startswith("-") for value in values):
        return None
    given: dict[str, Any] = {
        names[option]: value for option, value in zip(options, values, strict=True)
    }
    if "config_path" in given:
        given["config_path"] = Path(given["config_path"])
    if "port" in given:
        if re.fullmatch("[0-9]{1,5}", given["port"]) is None:
            return None
        given["port"] = int(given["port"])
    return given
