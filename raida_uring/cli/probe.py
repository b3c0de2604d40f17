"""`raida-uring probe`: what this machine grants the node."""

import json
from pathlib import Path
from typing import Annotated

from raida_uring import config
from raida_uring.cli.options import Backend, Json, config_option, load_config


def probe(
    as_json: Json = False,
    config_path: Annotated[
        Path | None,
        config_option("TOML file whose needs are to be met."),
    ] = None,
    backend: Backend = None,
) -> int:
    """Report what this machine grants the node.

    Says which backend the node would run on. Tries each kernel feature, names the cause where
    io_uring is refused, and compares limits with what the node needs. Exits 0 if it would run on
    io_uring, 3 on epoll only, 1 on neither, 2 if nothing was tried.
    """
    chosen = load_config(config_path)
    chosen = config.with_overrides(chosen, backend=backend)
    from raida_uring.node.probe import as_dict, table
    from raida_uring.node.probe import probe as probe_kernel

    found = probe_kernel(chosen)
    if as_json:
        print(json.dumps(as_dict(found), indent=2))
    else:
        print(table(found), end="")
    return found.verdict.exit_status
