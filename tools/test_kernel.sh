#!/usr/bin/env bash
# Run the integration and wire suites under another kernel, in QEMU.
#
# usage: tools/test_kernel.sh [PACKAGE | FILE.deb] [-- PYTEST ARGUMENTS]
#
# Without arguments: Debian's stock kernel of this release (what linux-image-amd64 stands for),
# whole suites. The native tests of backends, if built; uring and epoll as the
# suites do it; all that runs on uring also with IORING_SETUP_DEFER_TASKRUN refused, which is the
# tier of Linux 6.0.
# The checkout has to be built (`make build`). The guest's root is this machine's own, read-only
# over 9p, with what the guest writes kept in its memory: it sees the same Python and the same
# checkout, and leaves nothing behind. Needs qemu-system-x86, busybox-static (installed through apt
# when we are root). Not a part of CI: emulation in software takes an hour or two.
#
#   ACCEL=tcg      or kvm
#   LIMIT_S=10800  for the guest's whole life
#   PATIENCE=8     factor on what tests wait for an answer before they call it missing
#
# Exit status: pytest's first bad one, 0 if all passed, 3 if the guest did not report.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ACCEL=${ACCEL:-tcg} LIMIT_S=${LIMIT_S:-10800} PATIENCE=${PATIENCE:-8}
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

# --- What has to be there -----------------------------------------------------------------------

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

# --- The first file system of the guest: enough to mount the real one ----------------------------

initial=$work/initial
mkdir -p "$initial"/{bin,modules,proc,real}
cp "$busybox" "$initial/bin/busybox"

# What stands behind the colon is loaded last to first.
module_files() {
    local line
    line=$(grep -E "/$1\.ko(\.xz)?:" "$modules/modules.dep" || true)
    [[ -n "$line" ]] || return 0 # built in
    tr -d ':' <<<"$line" | tr ' ' '\n' | sed '/^$/d' | tac
}

# A dependency of a dependency is not always listed in order: busybox insmod takes any, so the
# list is gone through until nothing is left (see init).
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
# The guest's first process: loads what 9p needs and goes over to the host's root.
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

# --- The guest ----------------------------------------------------------------------------------

printf '%s\n' "$PATIENCE" "$@" >"$work/arguments" # read by guest.sh over 9p
printf '%s\n' "$modules" >"$work/modules-at"
log=$STORE/$release.log
say "booting $release with $ACCEL; its console is in ${log#"$PWD/"}"
cpu=max
[[ "$ACCEL" == kvm ]] && cpu=host
started=$SECONDS
timeout --foreground -k 10 "$LIMIT_S" qemu-system-x86_64 \
    -accel "$ACCEL" -cpu "$cpu" -smp 2 -m 4096 -nodefaults -no-user-config -no-reboot \
    -display none -monitor none -serial stdio -nic none \
    -kernel "$work/boot/vmlinuz-$release" -initrd "$work/initial.gz" \
    -append "console=ttyS0 quiet panic=-1 raida.work=$work" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    </dev/null | tee "$log" || say "the guest was ended after $LIMIT_S s"
say "the guest ran for $((SECONDS - started)) s"

result=$(sed -n 's/\r$//; s/^test-kernel: result //p' "$log" | tail -n 1)
[[ -n "$result" ]] || { say "the guest did not report"; exit 3; }
exit "$result"
