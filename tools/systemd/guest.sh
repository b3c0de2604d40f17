#!/usr/bin/env bash
# Runs as a unit inside the container that tools/test_systemd.sh boots: installs the node as
# docs/install.md says, has prove.py try the unit, and ends the container.
#
# usage: guest.sh
# /mnt/checkout and /mnt/wheels come from the host, read-only; /mnt/out takes what is reported.
set -uo pipefail
exec >/mnt/out/report 2>&1

fail() { printf 'FAIL %s\n' "$*"; }

# Commands that the document gives, word for word but for where the wheel comes from.
install_node() (
    set -e
    cd /mnt/checkout
    python3 -m venv /opt/raida-uring
    /opt/raida-uring/bin/pip install -q --no-index --find-links /mnt/wheels raida-uring
    install -D -m 644 systemd/raida-uring.sysusers /usr/lib/sysusers.d/raida-uring.conf
    systemd-sysusers
    install -D -m 644 systemd/raida-uring.service /etc/systemd/system/raida-uring.service
    install -D -m 644 systemd/raida-uring.socket /etc/systemd/system/raida-uring.socket
    install -d -m 750 -g raida-uring /etc/raida-uring
    install -m 640 -g raida-uring tools/systemd/node.toml /etc/raida-uring/node.toml
    /opt/raida-uring/bin/raida-uring config check /etc/raida-uring/node.toml
    install -d -m 750 -o raida-uring -g raida-uring /var/lib/raida-uring
    runuser -u raida-uring -- \
        /opt/raida-uring/bin/raida-uring store init --config /etc/raida-uring/node.toml
    systemctl daemon-reload
)

if install_node; then
    echo "PASS installed as docs/install.md says"
    # A copy: in the checkout, its raida_uring would be found before the installed one.
    mkdir -p /run/proof/tools
    cp -r /mnt/checkout/tools/systemd /run/proof/tools/
    cd /run/proof && /opt/raida-uring/bin/python -um tools.systemd.prove
else
    fail "installed as docs/install.md says"
fi
journalctl --no-pager -o json >/mnt/out/journal.json
journalctl --no-pager -o short-monotonic >/mnt/out/journal
sync
systemctl poweroff --force
