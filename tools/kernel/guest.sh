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
output=$(mktemp)
# One line per part when it ends; all that it printed where it failed. A part is a file of tests: one
# that hangs is ended by its own watchdog, and takes no other file with it.
run() {
    local title=$1 before=$SECONDS status
    shift
    "$@" >"$output" 2>&1
    status=$?
    ((status != 5)) || return 0 # nothing of it runs on this backend
    say "$(uname -r), $title: $(tail -n 1 "$output") [status $status, $((SECONDS - before)) s]"
    ((status == 0)) && return
    cat "$output"
    ((worst != 0)) || worst=$status
}
pytest=(-m pytest -p no:cacheprovider -q --color=no)
refused='from tests.support.confine import *; import os, sys; refuse_ring_flags(DEFER_TASKRUN); '
refused+='os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'
native() {
    local test
    for test in build/native/test_arena build/native/test_backend; do
        [[ ! -x "$test" ]] || run "native, $test" "$test"
    done
}
both() { run "uring and epoll, $*" python "${pytest[@]}" "$@"; }
# Tests that choose a backend, or a refusal, by themselves have run above.
older() {
    run "uring without DEFER_TASKRUN, $*" python -c "$refused" "${pytest[@]}" -k "uring and not io_uring" "$@"
}

say "$(uname -srv), $(nproc) CPUs"
python -m raida_uring probe | sed 's/^/test-kernel: /'
native
if ((${#arguments[@]} > 1)); then
    both "${arguments[@]:1}"
    older "${arguments[@]:1}"
else
    older tests/wire
    both tests/wire
    for file in tests/integration/test_*.py; do both "$file"; done
    for file in tests/integration/test_*.py; do older "$file"; done
fi
say "result $worst"
sync
sleep 1 # the console is slower than the power switch
busybox poweroff -f
