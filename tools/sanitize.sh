#!/usr/bin/env bash
# Run the Python tests with the C modules built under the address, undefined-behaviour and leak
# sanitizers.
#
# usage: tools/sanitize.sh [ARGUMENTS OF PYTEST]
#
# Works in a copy of the checkout, build/sanitize/tree, so that the modules in use stay unchanged.
# Every process writes its report to build/sanitize/report.PID, because some tests read a node's
# standard error. Exits 1 if there is a report or a test fails.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ROOT=$PWD OUT=$PWD/build/sanitize
readonly PYTHON=$ROOT/.venv/bin/python

rm -rf "$OUT"
mkdir -p "$OUT/tree"
tar --exclude=./build --exclude=./.venv --exclude=./.git --exclude='*.so' --exclude=__pycache__ -c . |
    tar -x -C "$OUT/tree"
cd "$OUT/tree"
RU_SANITIZE=address,undefined "$PYTHON" setup.py -q build_ext --inplace

# The interpreter is not instrumented, so the sanitizers' runtime must be preloaded.
runtime=$(gcc -print-file-name=libasan.so)
# Every program that a test starts preloads it, too, so leaks are checked only in the processes of
# the tests, each of which has run hundreds of nodes by then: tests/support/sanitized.py. Two frames
# of the stack identify the allocator: the suppressions match the second one, for memory that the
# interpreter and its libraries never free. Matching the whole stack would hide leaks of ours.
cat > "$OUT/leaks" <<'LEAKS'
leak:python3
leak:libc.so
leak:libcrypto
leak:libssl
leak:_psutil
leak:_cffi_backend
LEAKS
export LD_PRELOAD=$runtime PYTHONPATH=$OUT/tree PYTHONMALLOC=malloc
export ASAN_OPTIONS=abort_on_error=1:detect_leaks=1:leak_check_at_exit=0:malloc_context_size=2:log_path=$OUT/report
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$OUT/report
export LSAN_OPTIONS=suppressions=$OUT/leaks:print_suppressions=0
# A program takes two to three times as long to start.
export RAIDA_TEST_PATIENCE=${RAIDA_TEST_PATIENCE:-3}

"$PYTHON" - "$OUT/tree" <<'PY'
import sys
from raida_uring.ffi import _native
assert _native.__file__.startswith(sys.argv[1]), _native.__file__
assert "libasan" in open("/proc/self/maps").read()
PY
status=0
"$PYTHON" -m pytest -p no:cacheprovider -p tests.support.sanitized "$@" || status=$?
if compgen -G "$OUT/report.*" > /dev/null; then
    head -n 60 "$OUT"/report.*
    status=1
fi
exit "$status"
