"""The part of the build that pyproject.toml cannot say: cffi's list of C modules, and that they are
of the stable ABI, so that one wheel serves every Python from 3.11 on."""

from pathlib import Path

from setuptools import setup

BUILD_SCRIPTS = ("raida_uring/ffi/build.py", "raida_uring/bench/build.py")
setup(
    cffi_modules=[f"{path}:ffibuilder" for path in BUILD_SCRIPTS if Path(path).exists()],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
