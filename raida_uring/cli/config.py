"""`raida-uring config check` and `show`, and `raida-uring commands`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from raida_uring import config
from raida_uring.cli.options import Json, add_module_path, config_option, load_config
from raida_uring.errors import ConfigError

app = typer.Typer(help="Check a configuration, or show what takes effect.")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="TOML file.")],
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also import the handlers' modules, which runs their code, and look into the "
            "store, as this user; the node may be running.",
        ),
    ] = False,
) -> None:
    """Check whether a configuration would be accepted.

    Looks at the file alone, unless --deep is given.
    """
    chosen = config.load(path)
    found = _check_deep(chosen, path) if deep else ""
    exposed = config.exposed_keys(path, chosen)
    if exposed is not None:
        raise ConfigError(exposed)
    looked_at = ", with its modules" if deep else ""
    if deep and chosen.store.path is not None:
        looked_at += " and its store"
    print(f"{path}: correct{looked_at}")
    if found:
        print(found)


def _check_deep(chosen: config.Config, path: Path) -> str:
    """What `serve` would find in modules and store: its commands, counted. Raises RaidaError."""
    add_module_path(path)
    from raida_uring import handlers, store
    from raida_uring.handlers import listing

    commands = handlers.load(chosen.handlers.modules, store=chosen.store.path is not None)
    if chosen.store.path is not None:
        store.check(
            Path(chosen.store.path),
            map_bytes=chosen.store.size_mib << 20,
            raida_id=chosen.server.raida_id,
        )
    return listing.summary(commands)


@app.command()
def show(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", readable=False, help="TOML file; without it the embedded default."
        ),
    ] = None,
    show_secrets: Annotated[bool, typer.Option("--secrets", help="Print keys too.")] = False,
    annotated: Annotated[
        bool,
        typer.Option(
            "--annotated",
            help="Explain each setting, and comment out what is at its default. Without FILE: a "
            "sample to start from.",
        ),
    ] = False,
) -> None:
    """Print every setting with the value that takes effect, as TOML."""
    if annotated:
        given = None if path is None else config.load(path)
        print(config.annotated(given, show_secrets=show_secrets), end="")
        return
    chosen = load_config(path)
    print(config.to_toml(chosen, show_secrets=show_secrets), end="")


def list_commands(
    config_path: Annotated[
        Path | None,
        config_option(
            "TOML file whose modules are imported, which runs their code. Without it: the "
            "built-in commands of a node without a store, and those of entry points."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the commands that a node answers.

    Number, name, lane, whether a body is needed, and whose handler it is; the last line gives the
    numbers that are left for commands of your own.
    """
    chosen = load_config(config_path)
    if config_path is not None:
        add_module_path(config_path)
    from raida_uring import handlers
    from raida_uring.handlers import listing

    found = handlers.load(chosen.handlers.modules, store=chosen.store.path is not None)
    print(json.dumps(listing.as_dicts(found), indent=2) if as_json else listing.table(found))
