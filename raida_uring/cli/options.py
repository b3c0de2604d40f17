"""Options that several commands have. The --config of each has its own help text."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raida_uring import config
from raida_uring.ffi import native


def _complete_backend(incomplete: str) -> list[str]:
    return [name for name in native.BACKENDS if name.startswith(incomplete)]


Backend = Annotated[
    str | None,
    typer.Option(
        metavar="auto|uring|epoll",
        autocompletion=_complete_backend,
        help="How to talk to the kernel, instead of what the file says. `auto` takes io_uring, or "
        "epoll where io_uring is refused; `uring` does not start there; `epoll` never touches "
        "io_uring.",
    ),
]


def config_option(text: str) -> Any:
    """The option --config, with its help text."""
    return typer.Option("--config", metavar="FILE", readable=False, help=text)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def load_config(path: Path | None) -> config.Config:
    """The configuration in the file of --config, or the embedded default without one."""
    return config.embedded_default() if path is None else config.load(path)


def add_module_path(path: Path) -> None:
    """Let `import` find handler modules beside the configuration file `path`.

    Last, so that none of them can replace another module.
    """
    sys.path.append(str(path.resolve().parent))
