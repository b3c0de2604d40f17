"""Build of `raida_uring.ffi._native`: the data plane, compiled through cffi in API mode.

The declarations are the regions of HEADERS between their markers; C includes the same files, so
there is no second copy to keep. liburing is linked statically: the shared 2.3 of Debian 12 lacks
two functions that its header declares. Debian's static LMDB is not position-independent, so that is
linked as a shared library.
Environment: RU_WERROR=1 turns warnings into errors; RU_SANITIZE=address,undefined instruments.
"""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
HEADERS = ("layout.h", "ru.h", "coins/store.h", "coins/survey.h")
SOURCES = sorted(path.relative_to(HERE) for path in HERE.glob("*/*.c"))
WARNINGS = ["-Wall", "-Wextra", "-Wswitch-enum", "-Wshadow", "-Wstrict-prototypes"]
# cffi's generated file is not ours to keep free of these.
GENERATED = ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]


def declarations(name: str) -> str:
    """The marked region of a header."""
    text = (HERE / name).read_text(encoding="utf-8")
    begin, end = "/* cdef: begin */", "/* cdef: end */"
    return text[text.index(begin) + len(begin) : text.index(end)]


def flags() -> list[str]:
    """Compiler flags, as the environment asks."""
    chosen = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-fno-strict-aliasing"]
    chosen += WARNINGS + GENERATED
    if os.environ.get("RU_WERROR") == "1":
        chosen.append("-Werror")
    if sanitize := os.environ.get("RU_SANITIZE"):
        chosen += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
        chosen += ["-fno-omit-frame-pointer"]
    return chosen


ffibuilder = FFI()
ffibuilder.cdef("".join(declarations(name) for name in HEADERS))
ffibuilder.set_source(
    "raida_uring.ffi._native",
    "".join(f'#include "raida_uring/ffi/{name}"\n' for name in HEADERS),
    # Relative to the project, where setuptools runs: an absolute path would end in the wheel.
    sources=[f"raida_uring/ffi/{path}" for path in SOURCES],
    depends=[f"raida_uring/ffi/{path.relative_to(HERE)}" for path in sorted(HERE.rglob("*.h"))],
    include_dirs=["."],
    define_macros=[("_GNU_SOURCE", None)],
    # Not -I: its limits.h would hide the system's.
    extra_compile_args=["-iquote", "raida_uring/ffi", *flags()],
    extra_link_args=["-l:liburing.a", "-llmdb"]
    + ([f"-fsanitize={s}"] if (s := os.environ.get("RU_SANITIZE")) else []),
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
