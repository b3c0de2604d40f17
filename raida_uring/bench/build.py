"""Build `raida_uring.bench._loadgen` (cffi, API mode) from loadgen*.c and histogram.c.

setuptools runs it through `cffi_modules`; `python raida_uring/bench/build.py` compiles the module
in place. RU_WERROR=1 in the environment turns warnings into errors.
"""

import os
import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = os.environ.get("RU_SANITIZE")
WARNINGS = ["-Wall", "-Wextra", "-Wswitch-enum", "-Wshadow"]


def declarations(header: Path) -> str:
    """Return the text between the header's cdef marks. Raises ValueError without them."""
    found = re.search(
        r"/\* cdef: begin \*/\n(.*)/\* cdef: end \*/", header.read_text(encoding="utf-8"), re.S
    )
    if found is None:
        raise ValueError(f"{header}: no cdef region")
    return found.group(1)


def compile_arguments() -> list[str]:
    """Compiler arguments: optimised, hidden symbols; RU_WERROR and RU_SANITIZE as for the node."""
    arguments = ["-O2", "-std=gnu11", "-fvisibility=hidden"]
    if os.environ.get("RU_WERROR") == "1":
        arguments += [*WARNINGS, "-Werror"]
    if SANITIZE:
        arguments += ["-g", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    return arguments


ffibuilder = FFI()
ffibuilder.cdef(declarations(Path(__file__).with_name("loadgen.h")))
# Paths are relative to the source tree's root: setuptools refuses absolute ones.
ffibuilder.set_source(
    "raida_uring.bench._loadgen",
    '#include "loadgen.h"',
    sources=[
        f"raida_uring/bench/{name}.c"
        for name in ("loadgen", "loadgen_udp", "loadgen_tcp", "histogram")
    ],
    include_dirs=["raida_uring/bench"],
    depends=["raida_uring/bench/loadgen.h", "raida_uring/bench/loadgen_run.h"],
    extra_compile_args=compile_arguments(),
    extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
