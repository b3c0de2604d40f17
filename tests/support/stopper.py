"""Kills a node where one of its threads stands at a chosen instruction of the data plane.

By ptrace, from outside: the node is the product's. tests/native/stopper.c says how; it is compiled
here. Where a function stands is read from the symbols of the compiled module.
"""

import ctypes
import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.net import PATIENCE

SOURCE: Final = Path(__file__).parents[1] / "native" / "stopper.c"
ELSEWHERE: Final = "elsewhere"  # outside the data plane: in a library
NOT_REACHED: Final = "not reached"


@dataclass(frozen=True, slots=True)
class Point:
    """Where a thread stops: at the entry of `function` or, if `returning`, where its caller goes
    on; then after `steps` more instructions. patience_s: for it to come there."""

    function: str
    returning: bool = False
    steps: int = 0
    patience_s: float = 1.0 * PATIENCE


class _Stop(ctypes.Structure):
    """struct stopper_stop."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("returning", ctypes.c_uint32),
        ("steps", ctypes.c_uint32),
        ("patience_ms", ctypes.c_uint32),
        ("hold_ms", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    start: int  # in the module's file
    size: int


class Stopper:
    """The compiled library, and the functions of the module. Thread: any."""

    def __init__(self, directory: Path) -> None:
        """directory: where to compile. Skips the calling test where the processor is none that the
        library knows."""
        library = directory / "stopper.so"
        compile_it = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC"]
        subprocess.run([*compile_it, "-o", str(library), str(SOURCE)], check=True)
        loaded = ctypes.CDLL(str(library))
        self._kill = loaded.stopper_kill
        if not loaded.stopper_supported():
            pytest.skip(f"breakpoints are known for x86-64 only, not for {os.uname().machine}")
        spec = importlib.util.find_spec("raida_uring.ffi._native")
        assert spec is not None
        assert spec.origin is not None
        self._module = spec.origin
        self._functions = _functions_of(self._module)

    def kill(self, process: int, point: Point, hold_s: float) -> str:
        """Kill a child of this process where `point` says, after it has stood there for `hold_s`.

        Returns the function that it stood in, ELSEWHERE, or NOT_REACHED: then it was killed
        anywhere. Skips the calling test where the kernel allows nobody to trace a process.
        """
        base = self._base_of(process)
        (start,) = (one.start for one in self._functions if one.name == point.function)
        stop = _Stop(
            base + start,
            point.returning,
            point.steps,
            round(point.patience_s * 1000),
            round(hold_s * 1000),
        )
        at = ctypes.c_uint64()
        result = self._kill(process, ctypes.byref(stop), ctypes.byref(at))
        if result < 0:
            pytest.skip(f"no ptrace(PTRACE_SEIZE): {os.strerror(-result)}")
        return self._name_of(at.value - base) if result else NOT_REACHED

    def _base_of(self, process: int) -> int:
        """Where the module begins in the process's memory."""
        maps = Path(f"/proc/{process}/maps").read_text()
        found = re.search(rf"^([0-9a-f]+)-\S+ \S+ 0+ .*{re.escape(self._module)}$", maps, re.M)
        assert found is not None, f"{self._module} is not in\n{maps}"
        return int(found[1], 16)

    def _name_of(self, address: int) -> str:
        for one in self._functions:
            if one.start <= address < one.start + one.size:
                return one.name
        return ELSEWHERE


def _functions_of(module: str) -> list[_Function]:
    """The functions in a module's table of symbols."""
    table = subprocess.run(
        ["nm", "--print-size", module], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [tT] (\w+)$", table, re.M)
    return [_Function(name, int(start, 16), int(size, 16)) for start, size, name in rows]
