#!/usr/bin/env bash
# Do what the Containerfile says without an engine or a registry: in roots made by debootstrap.
#
# usage: tools/container/replay.sh
#
# For machines where images can be neither pulled nor run. RUN, COPY, ENV, USER, WORKDIR, ENTRYPOINT,
# CMD and HEALTHCHECK are read from the file and done in chroots: build, final stage, then a node,
# its health, a stop. Not shown by this: layers, the engine's own limits and seccomp profile, a
# volume. A filter that refuses io_uring stands in for the profile: the node must say so and serve.
#
# Needs root, debootstrap, a package mirror (MIRROR=URL) and pip's index as pip is configured here;
# one wheel in dist/.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly WORK=$PWD/build/container SUITE=bookworm
readonly MIRROR=${MIRROR:-http://deb.debian.org/debian}

say() { printf 'replay: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

((EUID == 0)) || die "needs root: chroot, mount"
command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
mkdir -p "$WORK"
if [[ ! -e "$WORK/debian/.complete" ]]; then
    say "installing Debian $SUITE"
    rm -rf "$WORK/debian"
    debootstrap --variant=minbase "$SUITE" "$WORK/debian" "$MIRROR" >"$WORK/log" 2>&1 ||
        { tail -20 "$WORK/log" >&2; die "debootstrap failed"; }
    touch "$WORK/debian/.complete"
fi
exec unshare --mount --pid --fork --kill-child --mount-proc .venv/bin/python -m tools.container.replay "$WORK"
