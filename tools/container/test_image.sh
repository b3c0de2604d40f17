#!/usr/bin/env bash
# Build the Containerfile and run a node from it, without a registry.
#
# usage: tools/container/test_image.sh
#
# The base image is a root made by debootstrap. Where podman is installed, it builds and runs the
# image: engine.sh. Elsewhere, or with ENGINE=none, replay.py reads RUN, COPY, ENV, USER, WORKDIR,
# ENTRYPOINT, CMD and HEALTHCHECK from the file and does them in chroots: build, final stage, then a
# node, its health, a stop. Not shown by that: layers, the engine's own limits and seccomp profile, a
# volume. A filter that refuses io_uring stands in for the profile: the node must say so and serve.
#
# Needs root, debootstrap, a package mirror (MIRROR=URL) and pip's index as pip is configured here;
# one wheel in dist/.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly WORK=$PWD/build/container SUITE=bookworm
readonly MIRROR=${MIRROR:-http://deb.debian.org/debian}

say() { printf 'test-image: %s\n' "$*" >&2; }
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
if [[ "${ENGINE:-podman}" == podman ]] && command -v podman >/dev/null; then
    # The build reaches the mirrors; the node has no network but its own.
    unshare --mount tools/container/engine.sh build "$WORK"
    exec unshare --mount --net --pid --fork --kill-child --mount-proc \
        tools/container/engine.sh live "$WORK"
fi
say "no podman: step by step"
exec unshare --mount --pid --fork --kill-child --mount-proc .venv/bin/python -m tools.container.replay "$WORK"
