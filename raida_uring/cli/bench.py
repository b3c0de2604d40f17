"""`raida-uring bench`: measure speed beside other servers."""

from pathlib import Path
from typing import Annotated

import typer


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="0.3 s and 3 rounds: shorter and less steady.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, max=600, help="Length of one run; by default 1."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=1000, help="Runs of each server; by default 9."),
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="CASE", help="Measure one case.")] = None,
    server_cpu: Annotated[
        int | None, typer.Option(metavar="CPU", min=0, help="Core of the servers.")
    ] = None,
    client_cpu: Annotated[
        int | None, typer.Option(metavar="CPU", min=0, help="Core of the load generator.")
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", readable=False, help="Write everything measured."),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print ratios as Markdown, at the end.")
    ] = False,
) -> int:
    """Measure speed beside other servers.

    In a source tree beside the smallest servers in C, asyncio and uvloop, and says which promises
    are kept; from a wheel the node alone. Prints each case as it ends. Exits 1 if the node answered
    wrongly.
    """
    from raida_uring.bench import runner

    if only is not None and only not in runner.case_names():
        names = ", ".join(runner.case_names())
        raise typer.BadParameter(f"{only!r} is none of {names}", param_hint="--only")
    settings = runner.settings_of(
        seconds=seconds if seconds is not None else 0.3 if quick else 1.0,
        rounds=rounds if rounds is not None else 3 if quick else 9,
        server_cpu=server_cpu,
        client_cpu=client_cpu,
        only=only,
    )
    return runner.run(settings, as_markdown=as_markdown, json_path=json_path)
