#!/usr/bin/env bash
# What test_wheel.sh runs in the root: install the wheel from /packages and live through a node's day.
#
# usage: inside.sh PYTHON
set -euo pipefail

readonly PYTHON=$1 NODE=/node/bin/raida-uring DAY=/day PORT=50007

fail() { printf 'inside: FAILED: %s\n' "$*" >&2; exit 1; }

# --- What must not be here ----------------------------------------------------------------------

for program in gcc cc c++ clang tcc ld make pkg-config; do
    ! command -v "$program" >/dev/null || fail "$program is here: proves nothing"
done
for library in liburing liblmdb; do
    found=$(find / -xdev -name "$library*" -not -path '/packages/*' -not -path '/node/*')
    [[ -z "$found" ]] || fail "$found is here: proves nothing"
done
! ls /usr/include/stdio.h 2>/dev/null || fail "headers are here: proves nothing"

# --- Installation -------------------------------------------------------------------------------

rm -rf /node "$DAY"
"$PYTHON" -m venv /node
/node/bin/pip install -q --disable-pip-version-check --no-index --find-links /packages raida-uring
for file in share/man/man1/raida-uring.1 share/bash-completion/completions/raida-uring \
    share/zsh/site-functions/_raida-uring share/fish/vendor_completions.d/raida-uring.fish \
    share/raida-uring/systemd/raida-uring.service share/raida-uring/systemd/raida-uring.toml \
    share/doc/raida-uring/configure.md; do
    [[ -s "/node/$file" ]] || fail "$file is not installed"
done

# --- A node's day -------------------------------------------------------------------------------

mkdir "$DAY"
cd "$DAY"
"$NODE" --version
status=0
"$NODE" probe >probe || status=$?
[[ $status == 0 || $status == 3 ]] || fail "probe: exit status $status: $(cat probe)"
tail -1 probe
"$NODE" store init --store coins
module=$(echo /node/lib/python3*/site-packages/raida_uring/ffi/_native*.so)
[[ -s "$module" ]] || fail "no module at $module"
ldd "$module" >linked
! grep -E 'libcrypto|not found' linked || fail "$module needs libraries: $(cat linked)"
printf '[server]\nraida_id = 7\n[store]\npath = "%s/coins"\n' "$DAY" >node.toml
"$NODE" config check node.toml

"$NODE" serve --config node.toml >log 2>&1 &
node=$!
for ((look = 0; look < 100; look++)); do
    ! "$NODE" ping "127.0.0.1:$PORT" -c 1 -W 0.2 >/dev/null 2>&1 || break
    kill -0 "$node" 2>/dev/null || fail "the node ended: $(cat log)"
done
grep -a 'serving on' log
for transport in udp tcp; do
    "$NODE" ping "127.0.0.1:$PORT" -c 20 -i 0 "--$transport" >ping ||
        fail "no answer over $transport: $(cat ping)"
    grep '^20 sent, 20 answered' ping || fail "$transport: $(cat ping)"
done
cat >sealed.py <<'PY'
import sys
from pathlib import Path
from raida_uring.client import Client, Coin, Key, calls
from raida_uring.store.store import reading
with reading(Path("coins")) as store:
    coins = [Coin(den, 8, store.an(den, 8)) for den in (0, 1)]
for transport in ("udp", "tcp"):
    for key in (Key(1, coins[:1]), Key(4, coins[:1]), Key(5, coins)):
        node = Client("127.0.0.1", int(sys.argv[1]), raida_id=7, transport=transport, key=key)
        answer = node.ask(calls.detect(coins)).require()
        assert answer.all_passed, (transport, key)
PY
/node/bin/python sealed.py "$PORT" || fail "encrypted requests: $(cat log)"
grep -E 'liblmdb|_native' "/proc/$node/maps" | awk '{print $6}' | sort -u >loaded
grep -q '^/node/lib/python3[.0-9]*/site-packages/raida_uring.libs/liblmdb-' loaded ||
    fail "LMDB is not the wheel's: $(cat loaded)"
"$NODE" status --config node.toml >status || fail "status: $(cat status)"
kill -TERM "$node"
wait "$node" || fail "exit status $? after SIGTERM: $(cat log)"
"$NODE" store verify --store coins
cd /
rm -rf "$DAY"
