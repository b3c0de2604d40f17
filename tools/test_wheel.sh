#!/usr/bin/env bash
# Test that the wheel in dist/ runs on a machine with Python and without the build requirements.
#
# usage: tools/test_wheel.sh [PREFIX...]
#
# Installs a minimal Debian 12 with python3 and python3-venv in build/wheel-root (kept; debootstrap,
# about 300 MB), checks that it has no compiler, liburing or LMDB, installs the wheel in it and runs
# a node: tools/wheel/inside.sh. Repeats that with the Python of each PREFIX, such as
# ~/.pyenv/versions/3.13.0, which the root sees read-only at the same path.
#
# Needs root, debootstrap and a package mirror (MIRROR=URL). The wheel's dependencies are fetched
# outside, as wheels only, by pip with this machine's configuration. The root has separate
# namespaces for network (only loopback), processes, mounts and host names, which end with the test.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ROOT=$PWD/build/wheel-root SUITE=bookworm
readonly MIRROR=${MIRROR:-http://deb.debian.org/debian}

say() { printf 'test-wheel: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

((EUID == 0)) || die "needs root: chroot, mount"
command -v debootstrap >/dev/null || die "needs debootstrap: apt-get install debootstrap"
wheels=(dist/raida_uring-*.whl)
[[ ${#wheels[@]} == 1 && -e "${wheels[0]}" ]] || die "needs one wheel in dist/: make dist"
[[ "${wheels[0]}" == *manylinux* ]] || die "${wheels[0]}: not repaired by auditwheel"

if [[ ! -e "$ROOT/.complete" ]]; then
    say "installing Debian $SUITE in build/wheel-root"
    rm -rf "$ROOT"
    mkdir -p "$ROOT"
    debootstrap --variant=minbase --include=python3,python3-venv "$SUITE" "$ROOT" "$MIRROR" \
        >"$ROOT.log" 2>&1 || { tail -20 "$ROOT.log" >&2; die "debootstrap failed"; }
    rm -rf "$ROOT"/var/cache/apt/archives/*.deb
    touch "$ROOT/.complete"
fi

# Fetch the wheel's dependencies into the root, with the pip of $1.
fetch() {
    local python=$1
    rm -rf "$ROOT/packages" "$ROOT/node"
    mkdir "$ROOT/packages"
    "$python" -m pip --disable-pip-version-check download -q --only-binary :all: \
        -d "$ROOT/packages" "${wheels[0]}" 2>&1 | { grep -v '^WARNING' || true; }
}

# Run inside.sh in the root, under the interpreter $1, with $2 visible in it unless empty.
run_inside() {
    local python=$1 prefix=$2
    cp tools/wheel/inside.sh "$ROOT/inside.sh"
    # The kernel undoes these mounts with the namespace and kills every process of the namespace with
    # its first one.
    timeout 180 unshare --mount --pid --net --ipc --uts --fork --kill-child bash -euc '
        root=$1 python=$2 prefix=$3
        ip link set lo up
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/dev"
        mkdir "$root/dev/shm"
        for device in null zero urandom random; do
            touch "$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        if [[ -n "$prefix" ]]; then
            mkdir -p "$root$prefix"
            mount --bind "$prefix" "$root$prefix"
            mount -o remount,bind,ro "$root$prefix"
        fi
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
            chroot "$root" bash /inside.sh "$python"
    ' bash "$ROOT" "$python" "$prefix"
}

# The Python of Debian 12. pip runs outside: any Python of the same version finds the same wheels.
say "Python of the root, $(basename "${wheels[0]}")"
outside=.venv/bin/python
[[ "$("$outside" -c 'import sys; print(*sys.version_info[:2])')" == "3 11" ]] ||
    die "fetching packages for Debian 12 takes a .venv of Python 3.11"
fetch "$outside"
run_inside /usr/bin/python3 ""
for prefix; do
    prefix=$(realpath "$prefix")
    [[ -x "$prefix/bin/python3" ]] || die "$prefix: no bin/python3"
    say "$("$prefix/bin/python3" --version) of $prefix"
    fetch "$prefix/bin/python3"
    run_inside "$prefix/bin/python3" "$prefix"
done
rm -rf "$ROOT/packages" "$ROOT/node"
say "passed"
