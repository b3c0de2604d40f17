#!/usr/bin/env bash
# The part of test_image.sh that podman does: build the image, run it as docs/install.md says.
#
# usage: unshare --mount tools/container/engine.sh build DIRECTORY
#        unshare --mount --net --pid --fork --kill-child --mount-proc tools/container/engine.sh live DIRECTORY
#
# DIRECTORY/debian becomes the image that FROM names. Images and volumes stay in DIRECTORY/engine;
# what runs and what is mounted ends with the namespaces, and podman's own state is not touched.
#
# The build's steps run in chroots (--isolation chroot) and the containers without cgroups: both
# work in a container or a virtual machine that keeps cgroups to itself. So limits by cgroup are not
# shown, nor health checks by timer, which podman leaves to systemd.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly WORK=$2 STATE=$2/engine IMAGE=raida-uring PORT=50014
readonly STORE=/var/lib/raida-uring/store PROFILE=/usr/share/containers/seccomp.json
BASE=$(awk '$1 == "FROM" { print $2; exit }' tools/container/Containerfile)
readonly BASE

say() { printf 'engine: %s\n' "$*" >&2; }
die() { say "FAILED: $*"; exit 1; }

# Its log without the complaints that no systemd takes the timer of a health check.
pod() {
    timeout 600 podman --log-level fatal --root "$STATE/root" --runroot "$STATE/run" --tmpdir "$STATE/run/tmp" \
        --storage-driver "${STORAGE_DRIVER:-overlay}" --cgroup-manager cgroupfs \
        --events-backend none "$@"
}

# Places of podman's that no option names, and what must not outlast this: empty ones of our own.
separate() {
    local place
    mkdir -p "$STATE/run"
    for place in "$STATE/run" /dev/shm /etc/cni /var/lib/cni "$@"; do
        [[ ! -d "$place" ]] || mount -t tmpfs tmpfs "$place"
    done
    # With crun 1.8.1, podman exec without -i gives the container's user the machine's /dev/null.
    mknod -m 666 "$STATE/run/null" c 1 3
    mount --bind "$STATE/run/null" /dev/null
    exec </dev/null
}

# As root's settings in the build: pip's of this machine. Mounted: of them the image has empty files.
pip_settings() {
    touch "$STATE/run/pip.conf" "$STATE/run/lent.crt"
    if [[ -e /etc/pip.conf ]]; then cp /etc/pip.conf "$STATE/run/pip.conf"; fi
    { echo "[global]"; env | sed -n '/^PIP_CERT=/d; s/^PIP_\([A-Z_]*\)=/\1 = /p'; } >"$STATE/run/user.conf"
    local trusted=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
    if [[ -e "$trusted" ]]; then # beside the image's own, which a RUN installs anew
        cp "$trusted" "$STATE/run/lent.crt"
        echo "cert = /lent.crt" >>"$STATE/run/user.conf"
    fi
}

build() {
    separate
    pip_settings
    if ! pod image exists "$BASE"; then
        say "$BASE from debootstrap's root"
        tar -C "$WORK/debian" --one-file-system --numeric-owner -c . | pod import -q - "$BASE" >/dev/null
    fi
    say "$(podman --version) builds tools/container/Containerfile"
    pod build --format docker -t "$IMAGE" -f tools/container/Containerfile \
        --isolation chroot --network host --pull=never --no-cache \
        -v "$STATE/run/pip.conf:/etc/pip.conf:ro" -v "$STATE/run/user.conf:/root/.config/pip/pip.conf:ro" \
        -v "$STATE/run/lent.crt:/lent.crt:ro" dist >"$WORK/log" 2>&1 ||
        { tail -20 "$WORK/log" >&2; die "podman build"; }
    pod image prune -f >/dev/null
}

# The limit $1 of `ulimit` for --ulimit, in its unit: $2, or less where root may not raise its own.
limit() {
    local hard
    hard=$(ulimit -H"$1")
    if [[ "$hard" == unlimited ]] || ((hard > $2)); then hard=$2; fi
    echo "$hard"
}

# A life of a node from the image: $1 must be in its start-up line; the rest are podman run's options.
live() {
    local expected=$1 transport process code said _
    shift
    pod run -d --name raida --cap-drop all --stop-timeout 30 "${COMMON[@]}" \
        -v "$STATE/run/node.toml:/etc/raida-uring/node.toml:ro" \
        -p $PORT:50000/udp -p $PORT:50000/tcp "$@" "$IMAGE" >/dev/null
    for _ in {1..20}; do
        if pod healthcheck run raida >/dev/null 2>&1; then break; fi
        sleep 0.5
    done
    pod healthcheck run raida >/dev/null || { pod logs raida >&2; die "not healthy"; }
    for transport in --udp --tcp; do
        .venv/bin/raida-uring ping "127.0.0.1:$PORT" $transport -c 2 -i 0.1 >"$WORK/log" 2>&1 ||
            { cat "$WORK/log" >&2; die "ping $transport from outside"; }
    done
    pod exec -i raida raida-uring status >"$WORK/log" || die "podman exec -i raida raida-uring status"
    [[ "$(stat -c %u /dev/null)" == 0 ]] || die "/dev/null belongs to another user now"
    grep -q '^RAIDA 14  serving' "$WORK/log" || die "$(cat "$WORK/log")"
    process=$(pod inspect -f '{{.State.Pid}}' raida)
    grep -q '^Uid:.50000.50000.50000.50000$' "/proc/$process/status" || die "not user 50000"
    grep -q '^CapEff:.0*$' "/proc/$process/status" || die "capabilities in spite of --cap-drop all"
    pod stop raida >/dev/null
    code=$(pod inspect -f '{{.State.ExitCode}}' raida)
    said=$(pod logs raida 2>&1)
    [[ "$code" == 0 && "$said" == *"info stopping"*"info final counters"* ]] || die "exit status $code: $said"
    said=$(grep 'serving on' <<<"$said")
    [[ "$said" == *"$expected"* ]] || die "not '$expected': $said"
    say "${*:+$* }$said"
    pod rm raida >/dev/null
}

lives() {
    separate /run
    ip link set lo up
    # Beside cgroups of version 1, crun refuses to start anything.
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    printf '[server]\nraida_id = 14\n[store]\npath = "%s"\n' "$STORE" >"$STATE/run/node.toml"
    local nofile memlock
    nofile=$(limit n 131072)
    memlock=$(($(limit l 65536) * 1024))
    # nproc: podman asks for more by itself than root may have without CAP_SYS_RESOURCE.
    COMMON=(--cgroups=disabled --ulimit nproc=1024:1024 --ulimit "nofile=$nofile:$nofile"
        --ulimit "memlock=$memlock:$memlock" -v raida:/var/lib/raida-uring)
    pod volume rm -f raida >/dev/null 2>&1 || true
    pod run --rm "${COMMON[@]}" "$IMAGE" store init --store "$STORE" >/dev/null

    live "epoll (io_uring refused"
    live "epoll (io_uring refused" --read-only
    if command -v jq >/dev/null; then
        jq '.syscalls += [{names: ["io_uring_setup", "io_uring_enter", "io_uring_register"],
            action: "SCMP_ACT_ALLOW"}]' "$PROFILE" >"$STATE/run/profile.json"
        live ": io_uring, " --read-only --security-opt "seccomp=$STATE/run/profile.json"
    else
        say "no jq: the profile that allows io_uring is not tried"
    fi
    say "passed"
}

case $1 in
build) build ;;
live) lives ;;
*) die "build or live" ;;
esac
