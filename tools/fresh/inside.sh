#!/usr/bin/env bash
# What test_fresh.sh runs in a bare root.
#
# usage: inside.sh build|commands CASE
set -euo pipefail

readonly STEP=$1 CASE=$2 SOURCE=/srv/raida-uring.git
# Whose it is: root without capabilities may not look into another user's home.
if [[ "$CASE" == *.root.* ]]; then PLACE=$HOME; else PLACE=/srv/newcomer; fi
readonly PLACE CHECKOUT=$PLACE/raida-uring

say() { printf 'inside: %s\n' "$*"; }
fail() { say "FAILED: $*"; exit 1; }

as_newcomer() {
    if [[ "$CASE" == *.root.* ]]; then
        "$@"
    else
        runuser -u newcomer -- env HOME="$PLACE" "$@"
    fi
}

build() {
    local command
    for program in gcc clang systemctl ip strace; do
        ! command -v $program >/dev/null || fail "$program is here: not a bare machine"
    done
    useradd --home-dir /srv/newcomer --create-home newcomer
    cd "$PLACE"
    git config --system safe.directory '*'
    as_newcomer git clone -q "$SOURCE" "$CHECKOUT"
    cd "$CHECKOUT"
    if [[ "$CASE" == *.user.* ]]; then
        ! as_newcomer make build >/tmp/told 2>&1 || fail "there was nothing to install"
        command=$(sed -n 's/^setup: missing system packages; run: sudo //p' /tmp/told)
        [[ -n "$command" ]] || fail "no word about what to install: $(cat /tmp/told)"
        rm /tmp/told
        apt-get update -qq
        # shellcheck disable=SC2086  # as it would be pasted
        DEBIAN_FRONTEND=noninteractive $command -qq
    fi
    as_newcomer make build
    [[ -z "$(git status --porcelain)" ]] || fail "the checkout: $(git status --porcelain)"
}

# The README's line that begins with $1, without its comment.
readme() {
    local line
    line=$(sed -n "/^\`\`\`\$/,/^\`\`\`\$/s|^\($1[^#]*\).*|\1|p" README.md)
    [[ -n "$line" && "$line" != *$'\n'* ]] || fail "README.md: not one line '$1'"
    echo "$line"
}

run_and_ping() {
    local make node
    # shellcheck disable=SC2046  # as it would be pasted
    as_newcomer $(readme "make run") >/dev/shm/said 2>&1 &
    make=$!
    until grep -q 'serving on' /dev/shm/said; do
        kill -0 $make 2>/dev/null || fail "make run: $(cat /dev/shm/said)"
        sleep 0.1
    done
    # shellcheck disable=SC2046
    as_newcomer $(readme ".venv/bin/raida-uring ping") || fail "ping: $(cat /dev/shm/said)"
    # shellcheck disable=SC2046
    as_newcomer $(readme ".venv/bin/raida-uring probe") || true # the kernel's word, not ours
    node=$(as_newcomer .venv/bin/raida-uring status --json | python3 -c 'import json, sys
print(json.load(sys.stdin)["process"])')
    kill -INT "$node"
    wait $make || fail "make run ended with $?: $(cat /dev/shm/said)"
    cat /dev/shm/said
    rm /dev/shm/said
    # Of its own user's node: the place of the admin socket stays for the next.
    [[ "$CASE" == *.root.* ]] || rmdir "/tmp/raida-uring-$(id -u newcomer)"
}

# A limit of `ulimit`, unless this machine's own is lower.
limit() {
    local now
    now=$(ulimit "$1")
    if [[ "$now" == unlimited ]] || ((now > $2)); then ulimit "$1" "$2"; fi
}

commands() {
    local left
    cd "$CHECKOUT"
    if [[ "$CASE" == *.user.* ]]; then # what a login has
        limit -Hn 524288
        limit -Sn 1024
        limit -Hl 8192
    fi
    run_and_ping
    if [[ -n "$TESTS" ]]; then
        # shellcheck disable=SC2086  # pytest's arguments
        as_newcomer .venv/bin/python -m pytest $TESTS || fail "pytest $TESTS"
    else
        # shellcheck disable=SC2046
        as_newcomer $(readme "make test") || fail "make test"
    fi
    left=$(find /tmp /dev/shm -mindepth 1; find /run -name "raida-uring*")
    [[ -z "$left" ]] || fail "left behind: $left"
    [[ -z "$(git status --porcelain)" ]] || fail "the checkout: $(git status --porcelain)"
    # This shell, and the subshell with the pipe.
    [[ "$(ls /proc | grep -c '^[0-9]')" -le 4 ]] || fail "still running: $(grep -as . /proc/[0-9]*/cmdline | tr '\0' ' ')"
}

case $STEP in
build) build ;;
commands) commands ;;
*) fail "build or commands" ;;
esac
