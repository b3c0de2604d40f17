#!/usr/bin/env bash
# Do the native tests find bugs in journal, writer, memory, and in what guards them? For each patch in mutations/, build the
# tests with it and run them until one fails.
#
# usage: tests/native/mutations.sh COMPILER ARGUMENTS...
# The compiler's arguments are those of a native test, with the sources under raida_uring/ffi and without
# the test. In the environment: DISK_LINK, what the test on a failing disk is linked with, too; ONLY, the name of
# one mutation.
# Prints which test has found each; exits 1 unless every mutation was caught.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly BUILD=build/mutations-native
readonly TESTS="raida needs memory journal reuse writer disk kill" # quick ones first
missed=0

# True if the test fails, also by an abort or by taking forever.
catches() {
    local name=$1 test=$2 link=
    shift 2
    if [ "$test" = disk ]; then link=$DISK_LINK; fi
    # shellcheck disable=SC2086 # several words
    "${@//raida_uring\/ffi/$BUILD/$name/raida_uring/ffi}" -o "$BUILD/$name/$test" "tests/native/test_$test.c" $link || exit 2
    # In a subshell, so that nobody remarks on the abort that is hoped for.
    ! (timeout 300 "$BUILD/$name/$test" > "$BUILD/$name/log" 2>&1; exit $?) 2> /dev/null
}

for patch in tests/native/mutations/${ONLY:-*}.patch; do
    name=$(basename "$patch" .patch)
    rm -rf "${BUILD:?}/$name"
    mkdir -p "$BUILD/$name/raida_uring"
    cp -r raida_uring/ffi "$BUILD/$name/raida_uring/"
    git apply --unidiff-zero --directory="$BUILD/$name" "$patch"
    found=
    for test in $TESTS; do
        if catches "$name" "$test" "$@"; then
            found=$test
            break
        fi
    done
    if [ -n "$found" ]; then
        printf '%-28s test_%s: %s\n' "$name" "$found" \
            "$(grep -m1 -E 'not true|is [0-9]+, not|check failed|byte' "$BUILD/$name/log" | sed 's/^[^:]*:[0-9]*: //' || echo 'no end')"
    else
        printf '%-28s NOT CAUGHT\n' "$name"
        missed=1
    fi
done
exit $missed
