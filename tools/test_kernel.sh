#!/usr/bin/env bash
# Run the integration and wire suites under another kernel, in QEMU.
#
# usage: tools/test_kernel.sh [PACKAGE | FILE.deb] [-- PYTEST ARGUMENTS]
#
# Without arguments: the whole suites under Debian's stock kernel of this release (the package that
# linux-image-amd64 depends on). Runs the native tests of backends, if built; the suites on uring and
# epoll; and the uring tests again with IORING_SETUP_DEFER_TASKRUN refused, the tier of Linux 6.0.
# The checkout must be built (`make build`). The guest's root is this machine's, read-only over 9p
# with writes kept in the guest's memory, so it has the same Python and checkout. Do not edit the
# checkout during a run. Needs qemu-system-x86 and busybox-static (installed through apt if run as
# root). Not part of CI: emulation in software takes hours.
#
# Each outcome is written to build/kernel/results/KERNEL/COMMIT at once, and a test with an outcome
# is not run again: the same command continues an interrupted run.
#
#   TIERS="native uring epoll coop any"  in that order; any: tests that depend on no backend
#   RESULTS=DIR    instead of the directory for this kernel and commit
#   AFRESH=1       delete the existing outcomes
#   AGAIN=1        repeat failed tests; the failures stay on record
#   SHARD=1/1      run part I of N of every tier, so that N guests can run at the same time
#   ACCEL=tcg      or kvm
#   LIMIT_S=43200  time limit of the guest
#   PATIENCE=8     factor on the time-outs of the tests
#   VOLUME=0.2     share of the repetitions (starts, connections, kills) in repeating tests
#
# Exit status: 0 if all passed or were skipped, 1 if a test failed, 3 if an outcome is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ACCEL=${ACCEL:-tcg} LIMIT_S=${LIMIT_S:-43200} PATIENCE=${PATIENCE:-8} SHARD=${SHARD:-1/1}
readonly VOLUME=${VOLUME:-0.2} TIERS=${TIERS:-native uring epoll coop any}
readonly STORE=$PWD/build/kernel
readonly GUEST_MODULES=(virtio_pci 9pnet_virtio 9p overlay)

say() { printf 'test-kernel: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

package=
if (($# > 0)) && [[ "$1" != -- ]]; then
    package=$1
    shift
fi
[[ "${1:-}" == -- ]] && shift

# --- Requirements -------------------------------------------------------------------------------

[[ "$(uname -m)" == x86_64 ]] || die "only on x86_64"
[[ -x .venv/bin/python ]] || die "run 'make build' first"
wanted=()
command -v qemu-system-x86_64 >/dev/null || wanted+=(qemu-system-x86)
command -v busybox >/dev/null || wanted+=(busybox-static)
if ((${#wanted[@]} > 0)); then
    ((EUID == 0)) || die "missing; run: sudo apt-get install -y ${wanted[*]}"
    say "installing ${wanted[*]}"
    DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi
busybox=$(command -v busybox)
[[ "$(ldd "$busybox" 2>&1)" != *"=>"* ]] || die "$busybox is not static: install busybox-static"

# --- The kernel ---------------------------------------------------------------------------------

mkdir -p "$STORE"
if [[ "$package" != *.deb ]]; then
    if [[ -z "$package" ]]; then
        package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-\)/\1/p')
        [[ -n "$package" ]] || die "apt knows no linux-image-amd64: run apt-get update"
    fi
    deb=$(find "$STORE" -maxdepth 1 -name "${package}_*.deb" | head -n 1)
    if [[ -z "$deb" ]]; then
        say "downloading $package"
        (cd "$STORE" && apt-get download "$package" >/dev/null 2>&1) ||
            die "apt-get could not download $package"
        deb=$(find "$STORE" -maxdepth 1 -name "${package}_*.deb" | head -n 1)
    fi
    package=$deb
fi
[[ -f "$package" ]] || die "$package: no such file"

work=$(mktemp -d "$STORE/run.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "unpacking $(basename "$package")"
dpkg-deb -x "$package" "$work"
release=$(basename "$work"/lib/modules/*)
"$busybox" depmod -b "$work" "$release" 2>/dev/null
modules=$work/lib/modules/$release

# --- The guest's initial file system: enough to mount the real one -------------------------------

initial=$work/initial
mkdir -p "$initial"/{bin,modules,proc,real}
cp "$busybox" "$initial/bin/busybox"

# The modules behind the colon are loaded last to first.
module_files() {
    local line
    line=$(grep -E "/$1\.ko(\.xz)?:" "$modules/modules.dep" || true)
    [[ -n "$line" ]] || return 0 # built in
    tr -d ':' <<<"$line" | tr ' ' '\n' | sed '/^$/d' | tac
}

# Indirect dependencies are not always listed in order, so init retries the list until every module
# is loaded.
for name in "${GUEST_MODULES[@]}"; do
    module_files "$name"
done | awk '!seen[$0]++' | while read -r file; do
    if [[ "$file" == *.xz ]]; then
        xz -dc "$modules/$file" >"$initial/modules/$(basename "${file%.xz}")"
    else
        cp "$modules/$file" "$initial/modules/"
    fi
done

cat >"$initial/init" <<'INIT'
#!/bin/busybox sh
# The guest's first process: loads the modules for 9p and switches to the host's root.
/bin/busybox mount -t proc proc /proc
for round in 1 2 3 4 5 6; do
    for file in /modules/*.ko; do
        /bin/busybox insmod "$file" 2>/dev/null && /bin/busybox rm "$file"
    done
done
/bin/busybox mkdir -p /lower /memory
options=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
/bin/busybox mount -t 9p -o $options host /lower || echo "test-kernel: no root over 9p"
/bin/busybox mount -t tmpfs -o size=80% memory /memory
/bin/busybox mkdir -p /memory/upper /memory/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work \
    overlay /real || echo "test-kernel: no overlay"
/bin/busybox umount /proc
exec /bin/busybox switch_root /real /bin/bash __GUEST__
INIT
sed -i "s|__GUEST__|$PWD/tools/kernel/guest.sh $PWD|" "$initial/init"
chmod +x "$initial/init"
(cd "$initial" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initial.gz"

# --- Bytecode, whose compilation would take the guest minutes ------------------------------------

.venv/bin/python -m compileall -q raida_uring tests/support

# --- The guest ----------------------------------------------------------------------------------

commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD || commit+=-$(git diff HEAD | sha256sum | cut -c 1-8)
results=${RESULTS:-$STORE/results/$release/$commit}
mkdir -p "$results"
results=$(realpath "$results")
[[ -z "${AFRESH:-}" ]] || rm -f "$results"/*
(($# > 0)) || set -- tests/integration tests/wire
# guest.sh reads these over 9p.
printf '%s\n' "$@" >"$work/arguments"
run=$(date +%Y%m%d-%H%M%S)-${SHARD/\//of}
declare -p commit modules run >"$work/settings"
printf '%s=%q\n' patience "$PATIENCE" volume "$VOLUME" tiers "$TIERS" shard "$SHARD" \
    again "${AGAIN:-}" >>"$work/settings"
log=$results/console-$run.log
say "booting $release with $ACCEL; outcomes go to ${results#"$PWD/"}"
cpu=max
[[ "$ACCEL" == kvm ]] && cpu=host
# No mitigations against speculative execution: switching page tables at each system call would
# flush the emulated processor's translation buffer. A clock that needs no device access.
quick="mitigations=off nopti no5lvl tsc=reliable nokaslr randomize_kstack_offset=off"
started=$SECONDS
timeout --foreground -k 10 "$LIMIT_S" qemu-system-x86_64 \
    -accel "$ACCEL" -cpu "$cpu" -smp 2 -m 4096 -nodefaults -no-user-config -no-reboot \
    -display none -monitor none -serial stdio -nic none \
    -kernel "$work/boot/vmlinuz-$release" -initrd "$work/initial.gz" \
    -append "console=ttyS0 quiet panic=-1 $quick raida.work=$work" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -virtfs local,path="$results",mount_tag=results,security_model=none \
    </dev/null | tee "$log" || say "the guest was ended"
say "the guest ran for $((SECONDS - started)) s"
.venv/bin/python -m tests.support.outcomes "$results"
