#!/usr/bin/env bash
# Try the README's commands on bare machines: minimal Debian 12 and 13 with git, make and Python.
#
# usage: tools/test_fresh.sh [CASE...]    CASE: bookworm|trixie . root|user . disk|tmpfs . ipv6|ipv4
#
# Without arguments, the four cases of ALL below, which cover every pair of values. A case takes
# about a quarter of an hour. It starts from a root made by debootstrap (kept in build/fresh, 300 MB
# each) in which nothing has been built. It clones this checkout's HEAD without uncommitted changes,
# runs `make build`, which is the set-up of the README's commands, with this machine's network, and
# then the commands themselves, word for word, with only loopback.
#
# root|user: who runs the commands. A user is told what to install; root then installs only that.
# disk|tmpfs: where /tmp is. Debian 12 has it on the disk, 13 on a tmpfs.
# ipv6|ipv4: whether the network has IPv6.
#
# The root has no systemd, iproute2 or clang. At the end /tmp must be empty, no process may run and
# the checkout must be clean. TESTS="tests/unit -k life" runs only a part of pytest.
#
# Needs root, iproute2, debootstrap and a package mirror (MIRROR=URL); pip uses this machine's
# configuration. A case has separate namespaces for processes, mounts and host names, which end
# with it.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORK=$PWD/build/fresh ALL="bookworm.root.disk.ipv6 trixie.root.tmpfs.ipv4
    bookworm.user.tmpfs.ipv4 trixie.user.disk.ipv6"
readonly MIRROR=${MIRROR:-http://deb.debian.org/debian}

say() { printf 'test-fresh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Install a bare machine; $1 is the suite.
bare_root() {
    local suite=$1 root=$WORK/$1
    [[ ! -e "$root/.complete" ]] || return 0
    say "installing Debian $suite in ${root#"$PWD"/}"
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase --include=ca-certificates,git,make,python3 "$suite" "$root" \
        "$MIRROR" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; die "debootstrap failed"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb
    touch "$root/.complete"
}

# Copy this machine's configuration of pip, and the certificates that PIP_CERT names, into root $1.
copy_pip_settings() {
    local root=$1 trusted=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
    [[ ! -e /etc/pip.conf ]] || cp /etc/pip.conf "$root/etc/pip.conf"
    [[ ! -e "$trusted" ]] || cp "$trusted" "$root/etc/lent.crt"
}

# Run inside.sh's step $3 for case $2 in root $1; further arguments are unshare's.
inside() {
    local root=$1 case=$2 step=$3 variable
    local -a lent=()
    shift 3
    if [[ "$step" == build ]]; then
        for variable in $(compgen -e PIP_); do # but for places on this machine
            [[ "${!variable}" == /* ]] || lent+=("$variable=${!variable}")
        done
        [[ ! -e "$root/etc/lent.crt" ]] || lent+=(PIP_CERT=/etc/lent.crt)
    fi
    # The kernel kills every process of the namespace with its first one.
    unshare --mount --pid --ipc --uts --fork --kill-child "$@" bash -euc '
        root=$1 case=$2 step=$3
        shift 3
        if [[ "$step" == commands ]]; then
            ip link set lo up
            if [[ "$case" == *.ipv4 ]]; then
                for name in all default lo; do
                    echo 1 >"/proc/sys/net/ipv6/conf/$name/disable_ipv6"
                done
            fi
        fi
        # Not chroot: the kernel creates no user namespaces inside one.
        mount --bind "$root" "$root"
        cd "$root"
        mkdir -p .outside
        mount -t tmpfs -o mode=755 tmpfs dev
        mkdir dev/shm dev/pts
        for device in null zero full urandom random tty; do
            touch "dev/$device"
            mount --bind "/dev/$device" "dev/$device"
        done
        mount -t tmpfs -o mode=1777 tmpfs dev/shm
        mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        for number in 0:stdin 1:stdout 2:stderr; do
            ln -s "/proc/self/fd/${number%:*}" "dev/${number#*:}"
        done
        [[ "$case" != *.tmpfs.* ]] || mount -t tmpfs -o mode=1777 tmpfs tmp
        mount -t proc proc proc
        [[ "$step" != commands ]] || mount -t sysfs -o ro sysfs sys
        pivot_root . .outside
        umount -l .outside
        hostname fresh
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
            LANG=C.UTF-8 TERM=dumb "$@" bash /inside.sh "$step" "$case"
    ' bash "$root" "$case" "$step" "${lent[@]}" TESTS="${TESTS:-}" </dev/null
}

one_case() {
    local case=$1 suite=${1%%.*} root=$WORK/$1 started=$SECONDS
    [[ "$case" =~ ^(bookworm|trixie)\.(root|user)\.(disk|tmpfs)\.(ipv6|ipv4)$ ]] || die "$case: no such case"
    bare_root "$suite"
    rm -rf "$root"
    cp -a "$WORK/$suite" "$root"
    printf '127.0.0.1 localhost fresh\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
    copy_pip_settings "$root"
    git clone -q --bare . "$root/srv/raida-uring.git"
    cp tools/fresh/inside.sh "$root/inside.sh"
    inside "$root" "$case" build >"$root.log" 2>&1 || { tail -40 "$root.log" >&2; die "$case: make build"; }
    inside "$root" "$case" commands --net >>"$root.log" 2>&1 || { tail -60 "$root.log" >&2; die "$case: $root.log"; }
    grep -aE '^(SKIPPED|=+ .* (passed|failed).* =+$|skipped: )' "$root.log" >&2 || true
    say "$case: passed in $((SECONDS - started)) s"
    rm -rf "$root"
}

((EUID == 0)) || die "needs root: mount, pivot_root"
command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
command -v ip >/dev/null || die "needs ip: apt-get install iproute2"
mkdir -p "$WORK"
# shellcheck disable=SC2086  # names without blanks
(($#)) || set -- $ALL
for case; do one_case "$case"; done
say "passed"
