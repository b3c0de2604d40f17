#!/usr/bin/env bash
# Does the simulator find bugs? Build the data plane once for each patch in mutations/, and run
# lives until one fails.
#
# usage: tests/fault/mutations.sh LIVES STEPS -- COMPILER ARGUMENTS...
# The compiler's arguments are those of the simulator, with the sources under raida_uring/ffi.
# Prints what was found at which seed; exits 1 unless every mutation was caught.
set -euo pipefail
cd "$(dirname "$0")/../.."
lives=$1 steps=$2
shift 3

readonly BUILD=build/mutations
missed=0
for patch in tests/fault/mutations/*.patch; do
    name=$(basename "$patch" .patch)
    rm -rf "${BUILD:?}/$name"
    mkdir -p "$BUILD/$name/raida_uring"
    cp -r raida_uring/ffi "$BUILD/$name/raida_uring/"
    git apply --unidiff-zero --directory="$BUILD/$name" "$patch"
    "${@//raida_uring\/ffi/$BUILD/$name/raida_uring/ffi}" -o "$BUILD/$name/sim"
    # In a subshell, so that nobody remarks on the abort that is hoped for.
    if ("$BUILD/$name/sim" 1 "$lives" "$steps" > "$BUILD/$name/log" 2>&1; exit $?) 2> /dev/null; then
        printf '%-24s NOT CAUGHT in %s lives\n' "$name" "$lives"
        missed=1
    else
        seed=$(sed -n 's/^sim: seed \([0-9]*\), step \([0-9]*\);.*/seed \1, step \2/p' "$BUILD/$name/log")
        printf '%-24s %s: %s\n' "$name" "$seed" "$(head -n 1 "$BUILD/$name/log" | sed 's/^[a-z-]*: //')"
    fi
done
exit $missed
