#!/usr/bin/env bash
# The first process of the guest that tools/test_kernel.sh boots. Its root is the host's, read-only,
# with a layer in memory over it. Runs the suites, reports on the console, powers off.
#
# usage: guest.sh CHECKOUT
cd "$1" || exit 1
PATH=$PWD/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH

say() { printf 'test-kernel: %s\n' "$*"; }

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
ln -sf /proc/self/fd /dev/fd
for place in /dev/shm /run; do mount -t tmpfs tmpfs "$place"; done
# What the host mounts over parts of its root is not a part of it here.
for name in $(sed 's/ /\n/g' /proc/cmdline); do
    [[ "$name" == raida.work=* ]] && work=${name#*=}
done
mapfile -t arguments <"$work/arguments"
modules=$(<"$work/modules-at")
export RAIDA_TEST_PATIENCE=${arguments[0]}

# veth and the like are loaded when they are first asked for.
if [[ ! -x /sbin/modprobe ]]; then ln -sf "$(command -v busybox)" /sbin/modprobe; fi
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/$(uname -r)"
hostname guest
ip link set lo up
ulimit -n 1048576

worst=0
run() {
    local title=$1 before=$SECONDS status
    shift
    say "$(uname -r): $title"
    "$@"
    status=$?
    say "$(uname -r): $title: exit status $status after $((SECONDS - before)) s"
    ((worst != 0)) || worst=$status
}
tests=(-m pytest -p no:cacheprovider -q --color=no "${arguments[@]:1}")
((${#arguments[@]} > 1)) || tests+=(tests/integration tests/wire)
refused='from tests.support.confine import *; import os, sys; refuse_ring_flags(DEFER_TASKRUN); '
refused+='os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'

say "$(uname -srv), $(nproc) CPUs"
python -m raida_uring probe | sed 's/^/test-kernel: /'
run "uring and epoll" python "${tests[@]}"
run "uring without DEFER_TASKRUN" python -c "$refused" "${tests[@]}" -k "uring"
say "result $worst"
sync
sleep 1 # the console is slower than the power switch
busybox poweroff -f
