#!/usr/bin/env bash
# Test the unit under the systemd of Debian 12 (252), in a container.
#
# usage: tools/test_systemd.sh [NAME...]    only the checks of these names, see tools/systemd/prove.py
#
# Installs a minimal Debian into build/systemd/root once (debootstrap) and, at every run, the node
# into a layer over it, from a wheel of this checkout. systemd-nspawn boots it with a separate
# network. Needs root, systemd-container and debootstrap (installed through apt). Not part of CI: it
# takes some minutes and a machine that allows containers.
#
# The host is unchanged: mounts are made in a separate namespace, and the container's control group
# is removed at the end. The report and the container's journal stay in build/systemd/out.
#
#   LIMIT_S=1800  time limit of the container
#
# Exit status: 0 if every check passed, 1 if one failed, 3 if the container did not report.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly STORE=$PWD/build/systemd LIMIT_S=${LIMIT_S:-1800}
readonly GROUP=raida-uring-test

say() { printf 'test-systemd: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

if [[ "${1:-}" == --inside-mount-namespace ]]; then
    # systemd needs a unified hierarchy of control groups, but no controllers.
    mount --make-rprivate /
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir "/sys/fs/cgroup/$GROUP"
    echo $$ >"/sys/fs/cgroup/$GROUP/cgroup.procs"
    mount -t tmpfs -o size=2g tmpfs "$STORE/layer"
    mkdir "$STORE/layer/upper" "$STORE/layer/work" "$STORE/layer/root"
    mount -t overlay -o "lowerdir=$STORE/root,upperdir=$STORE/layer/upper,workdir=$STORE/layer/work" \
        overlay "$STORE/layer/root"
    units=$STORE/layer/root/etc/systemd/system
    install -m 644 tools/systemd/prove.service "$units/prove.service"
    ln -s ../prove.service "$units/multi-user.target.wants/prove.service"
    # Not registered, since the host may have no machine manager.
    status=0
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout --foreground -k 10 "$LIMIT_S" systemd-nspawn \
        --quiet --boot --directory="$STORE/layer/root" --machine=raida-uring-test \
        --private-network --register=no --keep-unit --link-journal=no --resolv-conf=off \
        --timezone=off --console=pipe --system-call-filter='@aio ptrace process_vm_readv' \
        --bind-ro="$PWD:/mnt/checkout" --bind-ro="$STORE/wheels:/mnt/wheels" \
        --bind="$STORE/out:/mnt/out" || status=$?
    echo $$ >/sys/fs/cgroup/cgroup.procs
    find "/sys/fs/cgroup/$GROUP" -depth -type d -exec rmdir {} + || say "$GROUP is still in use"
    exit "$status"
fi

((EUID == 0)) || die "needs root"
[[ -x .venv/bin/python ]] || die "run 'make build' first"
wanted=()
command -v systemd-nspawn >/dev/null || wanted+=(systemd-container)
command -v debootstrap >/dev/null || wanted+=(debootstrap)
if ((${#wanted[@]} > 0)); then
    say "installing ${wanted[*]}"
    DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi

mkdir -p "$STORE"
exec 9>"$STORE/.lock"
flock -n 9 || die "another run is under way"
if [[ ! -e "$STORE/root/.complete" ]]; then
    say "installing a minimal Debian into ${STORE#"$PWD/"}/root"
    rm -rf "$STORE/root"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,python3,python3-venv,liblmdb0,libssl3,iproute2 \
        bookworm "$STORE/root" >"$STORE/debootstrap.log" || die "failed: $STORE/debootstrap.log"
    touch "$STORE/root/.complete"
fi
say "building a wheel"
rm -f "$STORE"/wheels/raida_uring-*.whl
.venv/bin/pip wheel -q --no-build-isolation --find-links "$STORE/wheels" \
    --wheel-dir "$STORE/wheels" . 2>"$STORE/wheel.log" || die "failed: $STORE/wheel.log"

rm -rf "$STORE/out"
mkdir -p "$STORE/out" "$STORE/layer"
printf '%s\n' "$@" >"$STORE/out/checks"
say "booting"
started=$SECONDS
tail -n +1 -F "$STORE/out/report" 2>/dev/null 9>&- &
tail=$!
trap 'kill "$tail" 2>/dev/null || true' EXIT
unshare --mount "$0" --inside-mount-namespace </dev/null >"$STORE/out/console" 2>&1 ||
    say "the container ended with status $?; its console is in ${STORE#"$PWD/"}/out/console"
sleep 1.2 # tail polls once a second
rmdir "$STORE/layer" 2>/dev/null || true
say "the container ran for $((SECONDS - started)) s"

passed=$(grep -c '^PASS' "$STORE/out/report" || true)
failed=$(grep -c '^FAIL' "$STORE/out/report" || true)
grep -q '^END' "$STORE/out/report" || { say "the container did not report"; exit 3; }
say "$passed passed, $failed failed"
((failed == 0))
