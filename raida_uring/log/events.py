"""The events that the package logs: one row for each, with its text and meaning.

A call site names the row and gives its values:

    events.STORE_UNWRITABLE.log(path=path, fault=fault)

The name of an event is that of its row in lower case; an event that is told in two ways has a
second row, which gives the `name`. Collectors know the names, so names do not change. The rows are
also the table of docs/reference.md (`make docs`).
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Final

from raida_uring.log.event import Event

_info: Final = partial(Event, logging.INFO)
_warning: Final = partial(Event, logging.WARNING)
_error: Final = partial(Event, logging.ERROR)
_any_level: Final = partial(Event, logging.NOTSET)

CONFIG_EXPOSED: Final = _warning(
    "%(fault)s",
    "`chmod 640` the file; `config check` refuses it",
    example="node.toml: holds [server] admin_key, and everybody may read it (mode 0644): …",
)
RUNS_AS_ROOT: Final = _info(
    "the node runs as root, which it does not need: a user of its own is safer",
    "run it as a user of its own, as the unit does",
)
DEFAULT_CONFIG: Final = _info(
    "no --config given: RAIDA 0 with a random admin key",
    "the node answers as RAIDA 0, and nobody knows its admin key",
)
PAGES_FOR_ALL: Final = _warning(
    "anybody can fetch pages of coins with every AN (14/4), which no RAIDA needs: [store] "
    'pages_for = "none", the default, forbids it',
    '`[store] pages_for` is `"all"`, and the node listens on an address that is not loopback; '
    "see [the store](operate.md#the-store)",
)
PAGES_FOR_PEERS: Final = _warning(
    "every address in raida_servers can fetch pages of coins with every AN (14/4), which no "
    'RAIDA needs: [store] pages_for = "none", the default, forbids it',
    '`[store] pages_for` is `"peers"`, and the node listens on an address that is not loopback',
)
SERVING: Final = _info(
    "serving on %(endpoints)s: %(tier)s",
    "the addresses, then the backend: io_uring and its tier (`COOP_TASKRUN` is Linux 6.0), or "
    "epoll and why, see [io_uring refused](troubleshooting.md#io_uring-refused)",
    fields=("endpoints", "tier"),
    example="serving on 0.0.0.0:50014, [::]:50014: io_uring, DEFER_TASKRUN",
)
QUEUES_SMALL: Final = _warning("smaller queues than asked for: %(why)s", "raise `LimitMEMLOCK`")
IPV6_ONLY: Final = _info(
    '%(place)s: "::" takes IPv6 only: add "0.0.0.0" to listen on IPv4 as well',
    'add `"0.0.0.0"` to have IPv4',
    fields=("place",),
)
HOST_ERRORS_HIDDEN: Final = _info(
    "no raida_host_udp_buffer_errors_total: /proc/self/net/snmp cannot be read",
    "the kernel's count of datagrams lost for lack of buffers is missing from the metrics",
)
HINT: Final = _info(
    "try it: %(command)s", "a command that this node answers, by the program as it was started"
)
COMMANDS: Final = _info(
    "%(summary)s",
    "the commands that the node answers, by their origin; `raida-uring commands` lists them",
    fields=("count",),
    example="16 commands: 15 built in, 1 [handlers] modules: greetings",
)
CONNECTIONS_LOWERED: Final = _info(
    "connections_max lowered from %(wanted)d to %(granted)d: the descriptor limit is %(limit)d",
    "raise `LimitNOFILE`",
    fields=("wanted", "granted"),
)
BUFFER_SMALL: Final = _info(
    "UDP %(buffer)s buffer: %(granted)d of %(wanted)d bytes granted "
    "(net.core.%(direction)smem_max)",
    "the kernel drops bursts beyond it; raise the limit that the line names",
    fields=("buffer", "granted", "wanted"),
    example="UDP receive buffer: 212992 of 4194304 bytes granted (net.core.rmem_max)",
)
NO_IPV6: Final = _warning(
    "no IPv6 on this machine: not listening on [::]", "`bind` was left out or contains `::`"
)
RESOURCES: Final = _info(
    "resources: cpu %(cpu_percent).0f %%, memory %(memory_mib)d MiB, descriptors "
    "%(descriptors)d, threads %(threads)d, connections %(connections)d, requests %(requests)d",
    "what the process uses; once a minute",
    fields=("cpu_percent", "memory_mib", "descriptors", "threads", "connections", "requests"),
)
RESOURCES_UNKNOWN: Final = _warning(
    "the resources could not be read: %(error)s",
    "no descriptor is left to read them with: a handler may leak descriptors",
)
REQUEST: Final = _info(
    "request %(group)d/%(command)d from %(peer)s port %(port)d over %(transport)s: %(status)d "
    "%(status_name)s, %(request_bytes)d bytes, %(reply_bytes)d back, %(duration_ms).3f ms",
    "group and command, client, status, bytes of request and reply, time from receipt to reply",
    fields=(
        "peer",
        "port",
        "transport",
        "group",
        "command",
        "status",
        "request_bytes",
        "reply_bytes",
        "duration_us",
    ),
    example="request 0/1 from 192.0.2.7 port 4711 over udp: 250 SUCCESS, 50 bytes, 42 back, "
    "0.107 ms",
    unlimited=True,
)
CONNECTION: Final = _info(
    "connection from %(peer)s port %(port)d closed: %(reason)s, %(requests)d requests, "
    "%(duration_s).3f s",
    "why it ended, its requests, its age",
    fields=("peer", "port", "reason", "requests", "duration_us"),
    example="connection from 192.0.2.7 port 4711 closed: header timeout, 0 requests, 5.002 s",
    unlimited=True,
)
REQUESTS_HELD_BACK: Final = _info(
    "%(count)d requests and connections were not logged: [log] requests_per_s is %(limit)d",
    "more than `[log] requests_per_s` in a second",
    fields=("count",),
    unlimited=True,
)
REQUEST_LOG_FAILED: Final = _error("request log failed", "a bug, with traceback; report it")
REPEATED: Final = _any_level(
    "%(count)d lines held back, as: %(line)s",
    "more than 10 lines of one kind in 10 seconds",
    fields=("count", "line"),
    unlimited=True,
)
HANDLER_FAILED: Final = _error(
    "handler %(handler)s failed for %(request)r, answered %(status)d%(remark)s",
    "with traceback; the same failure is logged at most once a second, with a count",
    fields=("group", "command"),
    example="handler M.F failed for <Request 5/200 …>, answered 252",
)
HANDLER_FAILED_AGAIN: Final = _error(
    "command %(group)d/%(command)d failed %(count)d more times since the last such line: %(fault)s",
    "repeats of the failure above that were only counted",
    fields=("group", "command"),
    name="handler_failed",
)
AFTER_COMMIT_FAILED: Final = _error(
    "an action after a commit failed: %(error)r",
    "an action that a handler gave to `after_commit()` raised, with traceback; the changes stand",
)
REPLY_REFUSED: Final = _error(
    "command %(group)d/%(command)d gave an invalid reply, answered 252: %(fault)s",
    "the status is not a byte, the payload is not bytes, or the reply is too long",
    fields=("group", "command"),
)
WORKER_FAILED: Final = _error(
    "worker %(worker)d failed, its batch is answered 252",
    "a bug, with traceback; report it",
    fields=("worker",),
)
STORE_FAILED: Final = _error(
    "%(fault)s: %(requests)d %(noun)s answered 194",
    "the store could not be read, or a commit failed; the count is of the last second or so",
    fields=("requests",),
    example="…: 12 requests answered 194",
)
STORE_UNWRITABLE: Final = _error(
    "the store %(path)s cannot be changed: %(fault)s",
    "a change failed, or the store's file is gone: changes are answered 194, `/readyz` is 503",
    fields=("path",),
)
STORE_WRITES_AGAIN: Final = _info(
    "the store %(path)s can be changed again",
    "a change succeeded, or the journal has room for one again",
    fields=("path",),
)
SYNC_FAILED: Final = _error(
    "changes are not safe from a power loss: %(error)s",
    'a flush of the journal with `durability = "interval"` failed: changes are answered 194, '
    "`changes_rescued` or `changes_in_doubt` follows, and the node ends, as `store_lost` says",
)
CHANGES_RESCUED: Final = _info(
    "every acknowledged change is in data.mdb: %(pages)d pages were written",
    "after `sync_failed`: the journal is no longer needed, and the next start makes a new one",
    fields=("pages",),
)
CHANGES_IN_DOUBT: Final = _error(
    "the last acknowledged changes may be lost: %(error)s",
    "after `sync_failed`, data.mdb could not be written either: the next start applies what the "
    "disk has of the journal, which is all of it unless the machine has lost its memory",
)
STORE_LOST: Final = _error(
    "%(fault)s",
    "a flush of the journal failed, and only a start can tell what is on the disk; or a write to "
    "data.mdb, which LMDB must open again. The node ends with status 1, see "
    "[the store](troubleshooting.md#the-store)",
)
CHECKPOINT_FAILED: Final = _error(
    "no checkpoint: %(error)s",
    "the journal keeps every change, and grows; tried again every `checkpoint_interval_s`, without "
    "another line until one succeeds. Make room on the disk, or raise `[store] size_mib`",
)
TREES_BUILDING: Final = _info(
    "building the trees: %(done)d of %(pages)d pages", "at start", fields=("done", "pages")
)
TREES_BUILT: Final = _info(
    "trees built in %(duration_s).1f s: %(hashed)d of %(pages)d pages hashed",
    "at start",
    fields=("hashed",),
)
TREES_STALE: Final = _error(
    "trees not up to date: %(error)s", "the store could not be read; the node tries again"
)
TREES_CRASHED: Final = _error(
    "trees not up to date: %(error)r",
    "a bug, with traceback; report it. The node tries again",
    name="trees_stale",
)
STORE_RAIDA_NOT_NOTED: Final = _warning(
    "the RAIDA's number was not written to the store: %(error)s", "the next start tries again"
)
TICKET_REFUSED: Final = _info(
    "RAIDA %(raida)d (%(address)s) did not redeem a ticket: %(error)s",
    "the command `fix` goes on with the other RAIDA",
    fields=("raida", "address"),
)
ADMIN_SOCKET: Final = _info(
    "admin socket %(path)s", "where the node takes commands of its operator", fields=("path",)
)
ADMIN_SOCKET_FAILED: Final = _warning(
    "no admin socket, tried again every %(retry_s).0f s: %(fault)s",
    "the path cannot be used; name another in `[admin] socket`",
)
PACKAGE_UNREADABLE: Final = _warning(
    "%(path)s: the package's metadata cannot be read, so its commands are not loaded: %(error)s",
    "left behind by a tool: remove it, or install the package again",
    fields=("path",),
)
ADMIN_REFUSED: Final = _warning(
    "admin socket: process %(process)d of user %(user)d refused",
    "only root and the node's own user may use the socket",
    fields=("process", "user"),
)
ADMIN_FAILED: Final = _error("admin request failed", "a bug, with traceback; report it")
RELOADED: Final = _info(
    "reloaded: %(changes)s",
    "the changes that took effect",
    fields=("applied",),
    example='reloaded: [log] level "info" -> "debug"',
)
RESTART_NEEDED: Final = _warning(
    "need a restart: %(changes)s",
    "the changes that did not",
    fields=("settings",),
    example="need a restart: [udp] contexts 4096 -> 8192",
)
RELOAD_FAILED: Final = _error(
    "not reloaded, nothing changed: %(error)s", "where the file is wrong, and why"
)
RELOAD_CRASHED: Final = _error(
    "not reloaded: %(error)r",
    "a bug, with traceback; report it. The node goes on as before",
    name="reload_failed",
)
SOCKETS_UNUSABLE: Final = _warning(
    "stored sockets are not used: %(error)s",
    "systemd kept only some of them; the node binds new ones",
)
SOCKETS_UNSERVED: Final = _warning(
    "the .socket unit has sockets that the configuration does not name: %(places)s port "
    "%(port)d; clients that connect there get no answer",
    "make unit and configuration agree",
    fields=("hosts", "port"),
)
SOCKETS_NOT_KEPT: Final = _warning(
    "the service manager keeps %(limit)s of %(wanted)d sockets: raise FileDescriptorStoreMax=",
    "clients are refused during a restart",
    fields=("wanted",),
)
NOTIFY_LATE: Final = _warning(
    "cannot notify the service manager, which does not read its socket: trying again later",
    "the node goes on, and sends the message once the manager reads",
)
NOTIFY_FAILED: Final = _warning(
    "cannot notify the service manager: %(error)s", "`NOTIFY_SOCKET` is wrong"
)
DRAIN_ASKED: Final = _info(
    "asked to stop: up to %(timeout_s).1f s for requests in flight",
    "a stop over the admin socket",
    fields=("timeout_ms",),
)
STOPPING: Final = _info(
    "stopping: up to %(timeout_s).1f s for requests in flight",
    "a drain has begun",
    fields=("timeout_ms",),
)
STOPPING_NOW: Final = _warning(
    "stopping at once: requests in flight are dropped", "a second signal"
)
HANDLERS_STUCK: Final = _warning(
    "handlers did not return in time: %(names)s",
    "the workers' threads end with the process",
    fields=("workers",),
)
UPGRADE_BEGUN: Final = _info(
    "upgrade: starting the successor", "`raida-uring upgrade` or SIGUSR2 asked for it"
)
UPGRADE_DONE: Final = _info(
    "upgrade: process %(pid)d serves",
    "this node answers the requests that it has, and ends",
    fields=("pid",),
)
UPGRADE_UNDER_WAY: Final = _info(
    "told to upgrade: %(why)s",
    "a further request during an upgrade or a stop; it begins no upgrade",
    example="told to upgrade: process 4711 serves already, ask that",
)
UPGRADE_FAILED: Final = _error(
    "no upgrade, this node goes on: %(reason)s", "the successor did not start"
)
UPGRADE_CANCELLED: Final = _error(
    "no upgrade: %(reason)s",
    "this node was told to stop, or failed, before the successor served",
    name="upgrade_failed",
)
SUCCESSOR_LOST: Final = _error(
    "the successor %(how)s: this node serves again",
    "the successor died before this node had ended",
    fields=("status",),
    example="the successor was killed by … (9): this node serves again",
)
LEAVING_ALREADY: Final = _info(
    "told to stop: leaving already",
    "a signal to the old process during an upgrade; the next one stops it at once",
)
STOPPING_AFTER_PREDECESSOR: Final = _info(
    "stopping once the predecessor is gone", "a signal during an upgrade"
)
TOOK_OVER: Final = _info(
    "took over: %(connections)d connections passed on, the predecessor is gone",
    "the upgrade is complete",
    fields=("connections",),
)
PREDECESSOR_GONE: Final = _warning(
    "the predecessor is gone already", "it was killed during the upgrade"
)
CONNECTION_NOT_TAKEN: Final = _warning(
    "no descriptor is left for a connection that was passed on: it is closed",
    "the successor's limit of descriptors is lower than its predecessor's: raise `LimitNOFILE=`",
)
COUNTERS_LOST: Final = _warning(
    "the successor does not have this node's counters: %(error)s", "show_stats starts again at 0"
)
COUNTERS_UNKNOWN: Final = _warning(
    "the predecessor speaks another version: its counters are not known",
    "the same: the versions of the two count differently",
    name="counters_lost",
)
HTTP: Final = _info(
    "status page, metrics and health on %(urls)s",
    "the addresses of `[http]`, see [operate](operate.md#status-page-metrics-and-health)",
)
HTTP_FAULT: Final = _error(
    "the answer to %(path)s failed", "a bug, with traceback; report it", fields=("path",)
)
HTTP_FAILED: Final = _error(
    "no HTTP, tried again every %(retry_s).0f s: %(fault)s",
    "another process has the port, or the address does not exist",
)
START_WAITS: Final = _warning(
    "%(reason)s; waiting up to %(wait_s).0f s",
    "the cause is likely to pass in a moment",
    fields=("reason",),
    example="cannot bind TCP …; waiting up to 60 s",
)
STOPPED_EARLY: Final = _info(
    "told to stop before the node served", "a stop while the start was waiting"
)
ADDRESS_MISSING: Final = _warning(
    "%(address)s: no interface has that address, or it is not usable yet: the node answers "
    "there once one has it",
    "the address is bound all the same",
    fields=("address",),
)
LINES_DROPPED: Final = _error(  # errors may be among the lines
    "%(count)d lines of this log were dropped: nobody read it, or it could not be written",
    "the log can be written again, see [Log](operate.md#log)",
    fields=("count",),
    unlimited=True,
)
SIGNAL_UNUSED: Final = _info(
    "ignored %(name)s (%(signal)d): this node has no use for that signal",
    "see [Signals](#signals)",
    fields=("signal",),
)
CLOCK_ABSURD: Final = _warning(
    "the clock is in the year %(year)d: set it, or have NTP set it; coins that change before "
    "that get a wrong month",
    "at start; the month of a changed coin is taken from the clock",
    fields=("year",),
)
THREAD_DIED: Final = _error(
    "thread %(thread)s has died: %(error)r",
    "a bug, with traceback; report it. The node ends with status 1, unless a handler started "
    "the thread",
    fields=("thread",),
)
NODE_FAILED: Final = _error(
    "the node ends because of a bug: %(error)r", "a bug, with traceback; report it"
)
UNRAISABLE: Final = _error(
    "%(what)s %(place)r: %(error)r",
    "a bug, mostly of a handler, with traceback: an exception during cleanup",
    example="Exception ignored in …",
)
FINAL_COUNTERS: Final = _info(
    "final counters %(nonzero)s",
    "at the end: as JSON, every counter below that is not 0; as fields (`json`, `journal`), "
    "all of them",
)

# Each row but those that give it takes its name from the constant.
globals().update(
    {
        constant: replace(row, name=constant.lower())
        for constant, row in dict(globals()).items()
        if isinstance(row, Event) and not row.name
    }
)
