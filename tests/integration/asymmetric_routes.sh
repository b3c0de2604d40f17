#!/usr/bin/env bash
# Run in a network namespace of its own (unshare --net): a node bound to all addresses, and a client
# in a second namespace that reaches it over one link while the way back leads over another.
# Arguments: the Python to use, a directory to work in, the backend. Status 0 when the client is answered.
set -euo pipefail
python=$1 directory=$2 backend=$3

unshare --net sleep 60 &
other=$!
trap 'kill "$other" ${node:-} 2>/dev/null || true' EXIT
until [ "$(readlink "/proc/$other/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do :; done
inside() { nsenter --net="/proc/$other/ns/net" "$@"; }

ip link set lo up
ip link add asked type veth peer name asking netns "$other"
ip link add back type veth peer name home netns "$other"
ip address add 10.9.0.1/24 dev asked
ip address add 10.9.1.1/24 dev back
ip link set asked up
ip link set back up
inside ip link set lo up
inside ip address add 10.9.0.2/24 dev asking
inside ip address add 10.9.1.2/24 dev home
inside ip address add 10.8.0.1/32 dev lo
inside ip link set asking up
inside ip link set home up
# The client speaks as 10.8.0.1 over the first link; its address is routed over the second.
ip route add 10.8.0.1/32 via 10.9.1.2 dev back
for name in all asked back; do echo 0 >"/proc/sys/net/ipv4/conf/$name/rp_filter"; done
inside bash -c 'for name in all asking home; do echo 0 >"/proc/sys/net/ipv4/conf/$name/rp_filter"; done'
# Nor may the node learn of it on the first link, as if it were there: neither by asking, nor asked.
inside bash -c 'echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore'
inside bash -c 'echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce'

cat >"$directory/node.toml" <<TOML
[server]
raida_id = 0
port = 50000
[network]
bind = ["0.0.0.0"]
backend = "$backend"
TOML
"$python" -m raida_uring serve --config "$directory/node.toml" 2>"$directory/stderr" &
node=$!
until grep -q "serving on" "$directory/stderr"; do kill -0 "$node"; done

inside "$python" - <<'PYTHON'
import socket

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.bind(("10.8.0.1", 0))
    client.settimeout(5)
    for _ in range(3):
        client.sendto(b"\x07" + bytes(480) + b"nonce of 16 byte", ("10.9.0.1", 50000))
        reply, source = client.recvfrom(64)
        assert reply == b"\x01nonce of 16 byte", reply
        assert source == ("10.9.0.1", 50000), source
PYTHON
