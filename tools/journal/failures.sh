#!/usr/bin/env bash
# failures.sh: what the contenders of the journal benchmark do on a full or failing disk, after
# damage, and beside another process.
#
# usage: tools/journal/failures.sh PROGRAM        (make bench-journal-failures builds it)
#
# Needs root: everything is mounted in a mount namespace of its own, which ends with the script.
# A disk that fails is ext4 in a loop device over a sparse file on a tmpfs: while the tmpfs is full,
# what is written to a hole of the file is an I/O error, which a sync reports. The disk after a
# power cut is a copy of that file: it holds what was synced, not what only the page cache has.
set -euo pipefail

if ((EUID != 0)); then
    echo "failures.sh: needs root for mounts" >&2
    exit 1
fi
if [[ -z "${IN_NAMESPACE:-}" ]]; then
    IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$(realpath "$1")"
fi

readonly PROGRAM=$1 NAMES="own lmdb sqlite-4k"
room=$(mktemp -d)
readonly room
device=

clean() {
    umount -q "$room/disk" "$room/cut" 2>/dev/null || true
    [[ -z "$device" ]] || losetup -d "$device" 2>/dev/null || true
    umount -q "$room/ram" "$room/small" 2>/dev/null || true
    rm -rf "$room"
}
trap clean EXIT
mkdir "$room/ram" "$room/small" "$room/disk" "$room/cut" "$room/plain"

say() { printf '\n== %s\n' "$*"; }

# The file that a contender appends to.
tail_of() {
    case $1 in
    own) echo own/segment-0 ;;
    lmdb) echo lmdb/data.mdb ;;
    sqlite-*) echo "$1/journal.db-wal" ;;
    esac
}

full_disk() {
    say "full disk, then space again: appends of 64 powns of 25 on a tmpfs"
    for name in $NAMES; do
        mount -t tmpfs -o size=$([[ $name == own ]] && echo 130m || echo 48m) none "$room/small"
        "$PROGRAM" append "$name" "$room/small" 1 1600 >/dev/null
        head -c 30M /dev/zero >"$room/small/filler" 2>/dev/null || true
        ON_FAILURE="rm $room/small/filler" \
            "$PROGRAM" append "$name" "$room/small" 600 1600 | tail -n +2 || echo "$name: status $?"
        "$PROGRAM" read "$name" "$room/small" || echo "$name: status $?"
        umount "$room/small"
    done
}

make_disk() {
    mount -t tmpfs -o size=400m none "$room/ram"
    truncate -s 256m "$room/ram/image"
    mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 "$room/ram/image"
    fallocate -l 256m "$room/ram/image" # mkfs leaves holes
    device=$(losetup --find --show "$room/ram/image")
    # The loop driver takes a write that came up short for done: none may be part hole, part not.
    echo 4 >"/sys/block/${device##*/}/queue/max_sectors_kb"
    mount "$device" "$room/disk"
}

drop_disk() {
    umount "$room/disk"
    losetup -d "$device"
    device=
    umount "$room/ram"
}

# Give the file blocks for 48 MB, and take those behind 12 MB away from the disk below.
thin() {
    local file=$room/disk/$1 size
    size=$(stat -c %s "$file")
    ((size >= 48 << 20)) || head -c $(((48 << 20) - size)) /dev/zero >>"$file"
    sync "$file"
    filefrag -v -b4096 "$file" | awk -F'[:. ]+' '/^ *[0-9]+:/ {print $3, $5, $7}' |
        while read -r logical physical length; do
            skip=$((logical < 3072 ? 3072 - logical : 0))
            ((skip < length)) || continue
            fallocate --punch-hole --offset $(((physical + skip) * 4096)) \
                --length $(((length - skip) * 4096)) "$room/ram/image"
        done
}

# Take the free blocks of the file system away from the disk below.
thin_free() {
    local first last
    sync
    dumpe2fs "$device" 2>/dev/null | sed -n 's/^  Free blocks: //p' | tr -d ' ' | tr ',' '\n' |
        while IFS=- read -r first last; do
            [[ -n "$first" ]] || continue
            fallocate --punch-hole --offset $((first * 4096)) \
                --length $(((${last:-$first} - first + 1) * 4096)) "$room/ram/image"
        done
}

fill_disk() { head -c 1G /dev/zero >"$room/ram/filler" 2>/dev/null || true; }

# Mount what the disk would have after a power cut now, and read it.
cut_power() {
    cp --sparse=always "$room/ram/image" "$room/cut.image"
    mount -o loop "$room/cut.image" "$room/cut"
    "$PROGRAM" read "$1" "$room/cut" || echo "$1: status $?"
    umount "$room/cut"
    rm "$room/cut.image"
}

failed_sync() {
    say "failed sync, the disk works again, the same process goes on; then the power is cut"
    for name in $NAMES; do
        make_disk
        "$PROGRAM" append "$name" "$room/disk" 100 1600 >/dev/null
        thin "$(tail_of "$name")"
        fill_disk
        ON_FAILURE="rm $room/ram/filler" \
            "$PROGRAM" append "$name" "$room/disk" 400 1600 | tail -n +2
        cut_power "$name"
        drop_disk
    done
    say "failed sync, killed at once, the disk works again, another process goes on; power cut"
    for name in $NAMES; do
        failed_sync_and_kill "$name"
    done
    say "the same, but what the other process reads at its start is taken to be on the disk"
    for name in own sqlite-4k; do
        TRUST_TAIL=1 failed_sync_and_kill "$name"
    done
    say "killed at once again, but own's segments are allocated, not zeroed, and LMDB's file grows"
    ALLOCATE_ONLY=1 failed_sync_and_kill own
    GROWS=1 failed_sync_and_kill lmdb
}

failed_sync_and_kill() {
    make_disk
    "$PROGRAM" append "$1" "$room/disk" 100 1600 >/dev/null
    if [[ -n "${GROWS:-}" ]]; then
        thin_free
    else
        thin "$(tail_of "$1")"
    fi
    fill_disk
    (ON_FAILURE="rm $room/ram/filler; kill -9 \$PPID" \
        "$PROGRAM" append "$1" "$room/disk" 400 1600 | tail -n +2) 2>/dev/null || true
    "$PROGRAM" append "$1" "$room/disk" 20 1600 || echo "$1: status $?"
    cut_power "$1"
    drop_disk
}

# Overwrite bytes of a file: file, offset, count.
spoil() {
    head -c "$3" /dev/zero | tr '\0' 'U' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

damage() {
    local name file at
    say "torn tail: 500 bytes of the last of 100 batches of 64 powns of 1 are others"
    for name in $NAMES; do
        rm -rf "$room/plain/$name"
        "$PROGRAM" append "$name" "$room/plain" 100 64 >/dev/null
        case $name in
        own) at=$((32 + 100 * 1560)) ;;
        lmdb) at=$(stat -c %s "$room/plain/$(tail_of lmdb)") ;;
        sqlite-4k) at=$(stat -c %s "$room/plain/$(tail_of sqlite-4k)") ;;
        esac
        spoil "$room/plain/$(tail_of "$name")" $((at - 1000)) 500
        "$PROGRAM" read "$name" "$room/plain" || echo "$name: status $?"
    done
    say "damage in the middle: 8 bytes of the journal's middle are others"
    for name in $NAMES; do
        rm -rf "$room/plain/$name"
        "$PROGRAM" append "$name" "$room/plain" 100 64 >/dev/null
        file=$room/plain/$(tail_of "$name")
        case $name in
        own) at=$((32 + 50 * 1560 + 700)) ;;
        *) at=$(($(stat -c %s "$file") / 2 + 3000)) ;;
        esac
        spoil "$file" "$at" 8
        "$PROGRAM" read "$name" "$room/plain" || echo "$name: status $?"
    done
}

beside() {
    local name writer last
    say "read and followed from 500 beside a writer; what the reader opens for writing"
    for name in $NAMES; do
        rm -rf "$room/plain/$name"
        "$PROGRAM" append "$name" "$room/plain" 1000 1 >/dev/null
        "$PROGRAM" append "$name" "$room/plain" 200000 1 >/dev/null &
        writer=$!
        until last=$("$PROGRAM" read "$name" "$room/plain" 500) && [[ $last != *"to 1000" ]]; do
            :
        done
        echo "$last"
        strace -f -e trace=openat "$PROGRAM" read "$name" "$room/plain" 500 2>&1 |
            grep -oE '"[^"]*", O_[^)]*O_?(RDWR|WRONLY)[^)]*|"[^"]*", O_(RDWR|WRONLY)[^)]*' |
            sed "s|$room/plain/||" || echo "$name: nothing"
        kill "$writer" 2>/dev/null || true
        wait "$writer" 2>/dev/null || true
    done
}

full_disk
failed_sync
damage
command -v strace >/dev/null && beside
