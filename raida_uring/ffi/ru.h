/* ru.h: everything Python may see of the data plane.
 *
 * build.py feeds the marked region to cffi; C includes the whole file. cffi drops the GIL on every
 * call, so the thread named at each function is the only guard:
 *   control  the thread that created the engine; loop  the one inside ru_engine_run();
 *   worker   the one thread that opened that worker; any  any thread, at any time between create
 *   and destroy.
 * Functions return 0 or a count, or -errno. Sizes are bytes.
 */
#ifndef RU_RU_H
#define RU_RU_H

#include <stdint.h>

#include "limits.h"

/* cdef: begin */
enum ru_constant {
    RU_CONFIG_LISTENERS = 16,
    RU_FAULT_TEXT = 160,
    RU_TIER_TEXT = 96,
    RU_RECORD_SIZE = 40,
    RU_REQUEST_PREFIX_BYTES = 80,
    RU_INLINE_BYTES = 352,
    RU_ADDRESS_BYTES = 28, /* sockaddr_in6 */
    RU_CLOSED_KEPT = 512,
    RU_CONNECTIONS_LISTED = 256, /* at once: some 0.1 ms of the loop */
    RU_LIMITED_LISTED = 256,
};

enum ru_backend_choice {
    RU_BACKEND_AUTO = 0, /* io_uring, or epoll where it is refused */
    RU_BACKEND_URING = 1,
    RU_BACKEND_EPOLL = 2,
};

enum ru_histogram_kind {
    RU_HISTOGRAM_UDP = 0,   /* datagram taken to reply queued, requests of workers, ns */
    RU_HISTOGRAM_TCP = 1,   /* first byte to reply queued, requests of workers, ns */
    RU_HISTOGRAM_QUEUE = 2, /* queued to handed to a worker, ns */
    RU_HISTOGRAM_LAP = 3,   /* one turn of the loop without its wait, ns */
    RU_HISTOGRAM_COUNT = 4,
};

/* Who answers a command. */
enum ru_lane_class {
    RU_CLASS_NONE = 0,     /* no such command: status 6 */
    RU_CLASS_ORDINARY = 1, /* a handler on the ordinary lane */
    RU_CLASS_SLOW = 2,     /* a handler on the slow lane */
    RU_CLASS_ECHO = 3,     /* the I/O thread when plain and valid, else the ordinary lane */
    RU_CLASS_WRITE = 4,    /* a handler on the writing lane */
};

/* Where requests wait for a worker. */
enum ru_lane_number {
    RU_LANE_ORDINARY = 0,
    RU_LANE_SLOW = 1,
    RU_LANE_WRITE = 2,
    RU_LANES = 3,
};

/* What a counter counts: what begins, ends or is under way, of which the sums in count/stats.h
 * speak, or events that are part of no sum. */
enum ru_counter_kind {
    RU_COUNTER_EVENT = 0,
    RU_COUNTER_UDP_BEGUN = 1, /* datagrams */
    RU_COUNTER_UDP_ENDED = 2,
    RU_COUNTER_UDP_OPEN = 3,
    RU_COUNTER_TCP_BEGUN = 4, /* requests */
    RU_COUNTER_TCP_ENDED = 5,
    RU_COUNTER_TCP_OPEN = 6,
    RU_COUNTER_CONNECTIONS_BEGUN = 7,
    RU_COUNTER_CONNECTIONS_ENDED = 8,
    RU_COUNTER_CONNECTIONS_OPEN = 9,
};

/* One bound address: a UDP and a TCP socket, both borrowed until ru_engine_destroy(). */
struct ru_listener_config {
    int32_t udp_fd;
    int32_t tcp_fd;
    int32_t wildcard; /* 1: the UDP socket reports the address that was asked */
};

/* An IPv6 network; one of IPv4 as IPv6 maps it, 96 bits longer. */
struct ru_network {
    uint8_t address[16];
    uint32_t bits; /* 0 to 128; what of the address lies behind them is 0 */
};

/* How many checks of a secret may fail, see guard.h. */
struct ru_checks {
    uint32_t burst;        /* of one sender, at once; 0: no limit of any kind */
    uint32_t per_min;      /* of one sender, in the long run; at least 1 */
    uint32_t coin_per_s;   /* under one key coin; 0: no limit */
    uint32_t exempt_count; /* of the following */
    struct ru_network exempt[64];
};

/* What an engine is created with. Ranges, and which fields may change later: engine/config.c. */
struct ru_config {
    struct ru_listener_config listeners[RU_CONFIG_LISTENERS];
    uint32_t listeners_count;
    uint32_t backend; /* enum ru_backend_choice */
    uint32_t raida_id;
    uint32_t coin_id;
    uint32_t workers;      /* ordinary lane; their indexes come first */
    uint32_t slow_workers; /* slow lane */
    uint32_t writers;      /* writing lane: 0 or 1, since a store has one writer at a time */
    uint32_t batch_max;
    uint32_t slow_queue_max;
    uint32_t udp_contexts; /* may be held by handlers */
    uint32_t udp_reserve;  /* kept for the I/O thread's own answers */
    uint32_t udp_payload_size;
    uint32_t udp_reply_factor_max; /* 0: no limit */
    uint32_t connections_max;
    uint32_t body_bytes_max;
    uint32_t small_blocks;
    uint32_t large_blocks;
    uint32_t tcp_buffers; /* a power of two */
    uint32_t tcp_persistent;
    uint32_t progress_timeout_ms;
    uint32_t header_timeout_ms;
    uint32_t body_timeout_ms;
    uint32_t write_timeout_ms;
    uint32_t idle_timeout_ms;
    uint32_t events_per_lap;
    uint32_t wait_max_ms;
    uint32_t busy_poll_us;
    int32_t io_cpu;          /* -1: not pinned */
    uint32_t shared_sockets; /* another process has them open, too: leave them as they are */
    struct ru_checks checks;
};

/* The field of a configuration that cannot be, and what it may be beside the others. */
struct ru_config_fault {
    char field[32]; /* of struct ru_config */
    uint32_t value, least, most;
};

/* What a handler finds in front of it. */
enum ru_request_kind {
    RU_REQUEST_PLAIN = 0,  /* body checked; payload is what stands between challenge and end */
    RU_REQUEST_BARE = 1,   /* no body at all */
    RU_REQUEST_SEALED = 2, /* payload is the whole body as sent, still encrypted */
    RU_REQUEST_KINDS = 3,
};

/* A request as a worker reads it, RU_RECORD_SIZE bytes; the worker's loop looks
 * at `payload_at` to `body_size` alone. */
struct ru_record {
    uint64_t token;
    uint32_t payload_at; /* in the batch's data; peer and header stand before the body */
    uint32_t payload_size;
    uint16_t command; /* group << 8 | command */
    uint8_t kind;     /* enum ru_request_kind */
    uint8_t encryption;
    uint8_t shard;
    uint8_t transport;  /* 0 UDP, 1 TCP */
    uint16_t body_size; /* BL */
    /* Of the request, and once it has been answered of the reply. */
    uint32_t request_size; /* header and body, as far as they were received */
    uint32_t reply_size;   /* 0 when it could not be sent */
    uint32_t reply_us;     /* since the datagram was taken, or the stream's first byte */
    uint8_t reply_status;
    uint8_t spare[3];
};

enum ru_family {
    RU_FAMILY_COIN = 1,   /* a key coin */
    RU_FAMILY_LOCKER = 2, /* lockers whose keys have the first five bytes in common */
    RU_FAMILY_IPV4 = 4,
    RU_FAMILY_IPV6 = 6,
};

/* What has failed too many checks of a secret to have another one made. */
struct ru_limited {
    uint8_t family;    /* enum ru_family */
    uint8_t bits;      /* of the address: 32, 24, 64 or 48 */
    uint8_t transport; /* 0 UDP, 1 TCP; of an address */
    uint8_t name[8];   /* address, 4 or 8 bytes; or 5 bytes of a coin; of lockers nothing */
    uint64_t rest_ns;  /* until a check is made again, if none fails before */
};

/* One open TCP connection. */
struct ru_connection {
    uint8_t peer
        [RU_ADDRESS_BYTES]; /* sockaddr_in or sockaddr_in6; all zero when it has none any more */
    uint32_t state;         /* enum ru_conn_state */
    uint64_t age_ns;
    uint64_t state_ns; /* in that state */
    uint64_t requests; /* begun on it */
};

/* One that ended. */
struct ru_closed {
    uint8_t peer[RU_ADDRESS_BYTES]; /* as above */
    uint32_t reason;                /* enum ru_closed_reason */
    uint64_t age_ns;
    uint64_t requests;
};

struct ru_engine;
struct ru_worker;

/* Thread: any. Whether an engine can be like that: 0, or -EINVAL and, unless it is NULL, the first
 * fault. */
int ru_config_check(const struct ru_config *config, struct ru_config_fault *fault);
/* Thread: any. What a field may be, whatever the others are; -EINVAL when there is no such limit. */
int ru_config_range(const char *field, uint32_t *least, uint32_t *most);
/* Thread: any. 1 for a field that ru_engine_set_live() changes, else 0. */
int ru_config_is_live(const char *field);
/* Thread: control. Maps and reserves all memory. -ENOMEM, -ENOSPC, -EFBIG when it cannot be had,
 * -EINVAL and the fault as ru_config_check(); ru_engine is NULL then. */
int ru_engine_create(const struct ru_config *config, struct ru_engine **engine,
                     struct ru_config_fault *fault);
/* Thread: control, once the loop and every worker have returned. Sockets stay open. */
void ru_engine_destroy(struct ru_engine *engine);
/* Thread: loop. Serves until drained; 0, or -errno when the ring could not be made or failed. */
int ru_engine_run(struct ru_engine *engine);
/* Thread: any. Wait until the loop serves (0) or has failed (its -errno); -ETIMEDOUT. */
int ru_engine_wait_ready(struct ru_engine *engine, uint32_t timeout_ms);
/* Thread: any. What failed, in words; empty when nothing did. Valid after run or wait_ready. */
const char *ru_engine_fault(struct ru_engine *engine);
/* Thread: any. The backend and its tier, for the start-up line; valid once ready. */
const char *ru_engine_tier(struct ru_engine *engine);
/* Thread: any. What io_uring failed at, in words, and its errno, when the choice was AUTO and epoll
 * serves; empty and 0 otherwise. Valid once ready. */
const char *ru_engine_refusal(struct ru_engine *engine, int *error);
/* Thread: any. Stop: accept nothing new, answer what was received, give up after deadline_ms.
 * A further call can only bring the deadline nearer. */
void ru_engine_drain(struct ru_engine *engine, uint32_t deadline_ms);
/* Thread: any. As ru_engine_drain(), but another process serves the same sockets: what arrives is
 * left to it, and connections between two requests leave through `channel`, a Unix socket of
 * sequenced packets that stays open until the engine has ended: one message each, the listener's
 * number in a byte and the descriptor as SCM_RIGHTS. */
void ru_engine_hand_over(struct ru_engine *engine, uint32_t deadline_ms, int channel);
/* Thread: any, one call of this and of those of ru_engine_set_live() at a time. The other process has
 * ended before this engine has: serve again, as if nothing had been handed over. -EINVAL when nothing
 * was, -ESHUTDOWN when the loop has ended, -ETIMEDOUT after 5 s. */
int ru_engine_take_back(struct ru_engine *engine);
/* Thread: any, as above. The process whose sockets these were is gone. shared: whether others still
 * have them, as config.shared_sockets. -ESHUTDOWN, -ETIMEDOUT. */
int ru_engine_own(struct ru_engine *engine, uint32_t shared);
/* Thread: one at a time, while the loop runs. Serve a connection that another process has accepted
 * on `listener`; the descriptor is the engine's then. -EAGAIN when too many wait, -EINVAL. */
int ru_engine_adopt(struct ru_engine *engine, uint32_t listener, int fd);
/* Thread: control, when ru_engine_run() was never called: workers leave ru_worker_take(). */
void ru_engine_close_workers(struct ru_engine *engine);
/* Thread: control. lane_class: enum ru_lane_class. -EINVAL when out of range. */
int ru_engine_set_class(struct ru_engine *engine, uint32_t group, uint32_t command,
                        uint32_t lane_class);
/* Thread: control. The command checks a secret of its own: its workers ask ru_worker_may_check(). -EINVAL
 * when out of range. */
int ru_engine_guard(struct ru_engine *engine, uint32_t group, uint32_t command);
/* Thread: any. Up to `count` of those that are limited now; returns how many there are. */
uint32_t ru_engine_limited(struct ru_engine *engine, struct ru_limited *limited, uint32_t count);
/* Thread: one publisher at a time. roots: RU_ROOTS_SIZE bytes, copied. */
void ru_engine_publish_roots(struct ru_engine *engine, const uint8_t *roots);
/* Thread: any. How often roots were published. */
uint64_t ru_engine_roots_version(struct ru_engine *engine);
/* Thread: any. One consistent set; values holds ru_counters_count() words. */
void ru_engine_counters(struct ru_engine *engine, uint64_t *values);
uint32_t ru_counters_count(void);
/* Thread: any. Of counter `index`: its name, what it means, and its enum ru_counter_kind. NULL, NULL
 * and RU_COUNTER_EVENT past the last. */
const char *ru_counters_name(uint32_t index);
const char *ru_counters_meaning(uint32_t index);
uint32_t ru_counters_kind(uint32_t index);
/* Thread: any. What workers answered to `command` (group << 8 | code): replies by status, 256 counts,
 * and the nanoseconds from receipt to reply of all of them together. */
uint64_t ru_engine_tally(struct ru_engine *engine, uint32_t command, uint64_t *answered);
/* Thread: any. How things stood at the end of the newest lap; values holds ru_gauges_count() words,
 * those named *_ns in CLOCK_MONOTONIC. */
void ru_engine_gauges(struct ru_engine *engine, uint64_t *values);
uint32_t ru_gauges_count(void);
const char *ru_gauges_name(uint32_t index);
/* Thread: any. Have the loop turn once more, soon: whether it lives shows in the counter `laps`. */
void ru_engine_wake(struct ru_engine *engine);
/* Thread: any. Copies up to count buckets, returns the number there are; sum_ns may be NULL. */
uint32_t ru_engine_histogram(struct ru_engine *engine, uint32_t kind, uint64_t *buckets,
                             uint32_t count, uint64_t *sum_ns);
uint64_t ru_hist_floor_ns(uint32_t bucket);
/* Thread: any, one call of this and the next at a time. Returns once the loop applies the fields of
 * `config` for which ru_config_is_live(), at the end of a lap; the others are ignored. Connections
 * over a lower limit stay; deadlines count from when they began. -EINVAL when a value is out of range
 * or connections_max is above its value at creation, -ESHUTDOWN when the loop does not run,
 * -ETIMEDOUT after 5 s. */
int ru_engine_set_live(struct ru_engine *engine, const struct ru_config *config);
/* Thread: any, as above. Up to RU_CONNECTIONS_LISTED open connections from number *first on, which
 * becomes the number to go on from; their count, 0 at the end. -ESHUTDOWN, -ETIMEDOUT. */
int ru_engine_connections(struct ru_engine *engine, uint32_t *first,
                          struct ru_connection *connections);
/* Thread: any. The name of enum ru_conn_state, or NULL past the last. */
const char *ru_connection_state_name(uint32_t state);
/* Thread: any, one at a time. Takes up to RU_CLOSED_KEPT connections that ended, oldest first, and
 * returns their count; those that ended well after one request are left out. missed: how many
 * there was no room for, since the engine was created. */
uint32_t ru_engine_closed(struct ru_engine *engine, struct ru_closed *closed, uint64_t *missed);
/* Thread: any. The name of enum ru_closed_reason, or NULL past the last. */
const char *ru_closed_reason_name(uint32_t reason);
/* Thread: any. Bytes of the arena. */
uint64_t ru_engine_arena_size(struct ru_engine *engine);

/* Thread: worker. One handle per index; -EINVAL past the last, -EBUSY while it is open. */
int ru_worker_open(struct ru_engine *engine, uint32_t index, struct ru_worker **worker);
/* Thread: worker. Undone requests of the batch are answered 252. */
void ru_worker_close(struct ru_worker *worker);
/* Thread: worker. Wait for requests: their number, 0 on time-out, -ESHUTDOWN when the engine ended.
 * Requests refused by their body check are answered here and not counted. */
int ru_worker_take(struct ru_worker *worker, uint32_t timeout_ms);
/* The batch: records, and the bytes they refer to. Valid until the next take. */
const struct ru_record *ru_worker_records(struct ru_worker *worker);
const uint8_t *ru_worker_data(struct ru_worker *worker);
uint32_t ru_worker_data_size(const struct ru_worker *worker);
/* Thread: worker. Python has won the interpreter lock back since the take: ends the measurement
 * behind the counter worker_lock_wait_ns. The size of the data. */
uint32_t ru_worker_resumed(struct ru_worker *worker);
/* Thread: worker. Whether a secret may be checked for the request of the batch whose payload stands
 * at `payload_at`: 1, or 0 when who asks has failed too often. Whatever it is answered then, a
 * datagram gets no reply, a connection 160 and its end. For checks that cost or change something. */
int ru_worker_may_check(struct ru_worker *worker, uint32_t payload_at);
/* Thread: worker. Such a check has been made: 1 when what came of it may be told, 0 as above. */
int ru_worker_checked(struct ru_worker *worker, uint32_t payload_at, uint32_t failed);
/* Thread: worker. Answer the next `count` requests of the batch, in order. payload holds the
 * payloads one behind the other, sizes their sizes. The payload of a sealed request's reply is empty
 * (a bare status; challenge field zero, nonce drawn here), or starts with what its header shows: the
 * 16 bytes of the challenge field (types 1, 2) or 22 of the nonce (types 4, 5). What follows is the
 * sealed body without its terminator. -EINVAL past the batch. */
int ru_worker_reply(struct ru_worker *worker, uint32_t count, const uint8_t *statuses,
                    const uint32_t *sizes, const uint8_t *payload);
/* Thread: worker. Hand a token back as it is; what reply does last. For tests of stale tokens. */
void ru_worker_return(struct ru_worker *worker, uint64_t token);

enum ru_probe_result {
    RU_PROBE_UNTRIED = 1 /* what it stands on was refused */
};

/* The node's backend as the machine grants it. */
struct ru_probe_backend {
    char tier[RU_TIER_TEXT];     /* as in the start-up line; empty when there is none */
    char fault[RU_FAULT_TEXT];   /* why there is none, in words */
    char refusal[RU_FAULT_TEXT]; /* what io_uring failed at, if it was tried and did */
    int32_t refusal_error;
    uint32_t is_ring;
    uint64_t locked_bytes_max; /* charged to the locked-memory limit at most, where rings are */
};

/* Thread: any. Try every kernel feature; no engine needed, nothing stays. results holds
 * ru_probe_count() of: 0 it works, RU_PROBE_UNTRIED, or the -errno it was refused with. 0 or
 * -ENOMEM. Takes some ms; a second or two for each feature that hangs or finds no memory. */
int ru_probe_run(int32_t *results);
uint32_t ru_probe_count(void);
const char *ru_probe_name(uint32_t index);
/* Thread: any. Open the backend that `config` (listeners aside) asks for as ru_engine_run() would,
 * and close it again: 0 or the -errno of what failed. Takes up to some seconds where locked memory
 * is short. */
int ru_probe_backend(const struct ru_config *config, struct ru_probe_backend *report);
/* cdef: end */

_Static_assert(RU_CONFIG_LISTENERS == RU_LISTENERS_MAX, "listeners");
_Static_assert(sizeof(((struct ru_checks *)0)->exempt) / sizeof(struct ru_network) == RU_EXEMPT_MAX,
               "exempt networks");
_Static_assert(sizeof(struct ru_record) == RU_RECORD_SIZE, "worker.py unpacks this layout");
_Static_assert(RU_REQUEST_PREFIX_BYTES == RU_REQUEST_PREFIX, "scratch");
_Static_assert(RU_INLINE_BYTES == RU_INLINE_SIZE, "inline reply");
_Static_assert(sizeof(((struct ru_probe_backend *)0)->fault) == RU_FAULT_TEXT &&
                   sizeof(((struct ru_probe_backend *)0)->refusal) == RU_FAULT_TEXT,
               "probe");

#endif
