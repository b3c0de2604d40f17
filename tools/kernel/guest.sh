#!/usr/bin/env bash
# The first process of the guest that tools/test_kernel.sh boots. Its root is the host's, read-only,
# with a layer in memory over it; what the tests come to goes to the host as it happens. Runs the
# tiers, reports on the console, powers off.
#
# usage: guest.sh CHECKOUT
cd "$1" || exit 1
PATH=$PWD/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8
# Compiled modules are kept, in the guest's memory: hundreds of nodes start, and compiling what one
# imports takes the emulated processor longer than all the rest of a test.
unset PYTHONPATH PYTHONDONTWRITEBYTECODE

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
# shellcheck disable=SC1091 # written by test_kernel.sh
. "$work/settings"
mapfile -t arguments <"$work/arguments"
export RAIDA_TEST_PATIENCE=$patience RAIDA_TEST_VOLUME=$volume RAIDA_OUTCOMES_COMMIT=$commit RAIDA_OUTCOMES_SHARD=$shard
export RAIDA_OUTCOMES_AGAIN=$again

results=/run/results
export TMPDIR=/run/tmp # not a merged directory: every look-up in one asks the host too
mkdir -p "$results" "$TMPDIR"
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none results "$results" ||
    say "no place for results"

# veth and the like are loaded when they are first asked for.
if [[ ! -x /sbin/modprobe ]]; then ln -sf "$(command -v busybox)" /sbin/modprobe; fi
mkdir -p /lib/modules
ln -sfn "$modules" "/lib/modules/$(uname -r)"
hostname guest
ip link set lo up
ip link add near type veth peer name far # an interface with a link-local address
ip link set near up && ip link set far up
ulimit -n 1048576

refused='from tests.support.confine import *; import os, sys; refuse_ring_flags(DEFER_TASKRUN); '
refused+='os.execv(sys.executable, [sys.executable, *sys.argv[1:]])'

# A test that hangs is ended by its watchdog, and pytest with it: that test has failed, and the next
# pytest goes on with the rest.
suites() {
    local tier=$1 file=$results/$1-$run python=(python) status last
    if [[ "$tier" == coop ]]; then
        python=(python -c "$refused")
        "${python[@]}" -m raida_uring probe | grep "would run on" | sed 's/^/test-kernel: coop:/'
    fi
    while :; do
        RAIDA_OUTCOMES=$file.jsonl "${python[@]}" -m pytest -p no:cacheprovider \
            -p tests.support.outcomes -q --color=no "${arguments[@]}" >>"$file.log" 2>&1
        status=$?
        last=$(tail -n 1 "$file.jsonl" 2>/dev/null)
        [[ "$last" == '{"started"'* ]] || break
        sed -E "s/^.\"started\": (.*)}\$/{\"test\": \1, \"outcome\": \"failed\", \"commit\": \"$commit\", \"text\": \"pytest ended with status $status\"}/" \
            <<<"$last" >>"$file.jsonl"
    done
    say "$tier: status $status, $SECONDS s since boot"
}

native() {
    local test name outcome
    for test in build/native/test_arena build/native/test_backend build/native/test_backend_streams; do
        name=$(basename "$test")
        [[ -x "$test" ]] || continue
        if grep -qs "\"$name\", \"outcome\": \"${again:+passed}" "$results"/native-*.jsonl; then continue; fi
        outcome=failed
        "$test" >>"$results/native-$run.log" 2>&1 && outcome=passed
        printf '{"test": "%s", "outcome": "%s", "commit": "%s", "text": "%s"}\n' "$name" \
            "$outcome" "$commit" "$(tail -n 1 "$results/native-$run.log" | tr -d '"\\')" \
            >>"$results/native-$run.jsonl"
    done
    say "native: $SECONDS s since boot"
}

say "$(uname -srv), $(nproc) CPUs, clock $(</sys/devices/system/clocksource/clocksource0/current_clocksource)"
python -m raida_uring probe >"$results/probe-$run.txt"
tail -n 5 "$results/probe-$run.txt" | sed 's/^/test-kernel: /'
for tier in $tiers; do
    if [[ "$tier" == native ]]; then native; else suites "$tier"; fi
done
say "result done"
sync
sleep 1 # the console is slower than the power switch
busybox poweroff -f
