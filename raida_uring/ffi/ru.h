/* ru.h: the interface of the data plane for Python.
 *
 * build.py passes the marked region to cffi; C includes the whole file. cffi releases the GIL for
 * every call, so only the rule on threads at each function prevents races:
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
    RU_INLINE_BYTES = 352,
    RU_ADDRESS_BYTES = 28, /* sockaddr_in6 */
    RU_CLOSED_KEPT = 512,
    RU_CONNECTIONS_LISTED = 256, /* per call: takes the loop some 0.1 ms */
    RU_LIMITED_LISTED = 256,
};

enum ru_backend_choice {
    RU_BACKEND_AUTO = 0, /* io_uring, or epoll where it is refused */
    RU_BACKEND_URING = 1,
    RU_BACKEND_EPOLL = 2,
};

enum ru_histogram_kind {
    RU_HISTOGRAM_UDP = 0,   /* datagram received to reply queued, requests of workers, ns */
    RU_HISTOGRAM_TCP = 1,   /* request received to reply queued, requests of workers, ns */
    RU_HISTOGRAM_QUEUE = 2, /* queued to handed to a worker, ns */
    RU_HISTOGRAM_LAP = 3,   /* one lap of the loop without its wait, ns */
    RU_HISTOGRAM_COUNT = 4,
};

/* Where a command is answered. */
enum ru_lane_class {
    RU_CLASS_NONE = 0,     /* no such command: status 6 */
    RU_CLASS_ORDINARY = 1, /* a handler on the ordinary lane */
    RU_CLASS_SLOW = 2,     /* a handler on the slow lane */
    RU_CLASS_ECHO = 3,     /* plain and valid: the I/O thread; otherwise the ordinary lane */
    RU_CLASS_WRITE = 4,    /* a handler on the writing lane */
};

/* Where requests wait for a worker. */
enum ru_lane_number {
    RU_LANE_ORDINARY = 0,
    RU_LANE_SLOW = 1,
    RU_LANE_WRITE = 2,
    RU_LANE_NATIVE = 3,       /* its workers never take the interpreter's lock */
    RU_LANE_NATIVE_WRITE = 4, /* likewise */
    RU_LANE_LIGHT = 5,        /* the I/O thread's own, see engine/native.h */
    RU_LANES = 6,
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

struct ru_counter {
    const char *name, *meaning;
    uint32_t kind; /* enum ru_counter_kind */
};

/* One bound address: a UDP and a TCP socket, both borrowed until ru_engine_destroy(). */
struct ru_listener_config {
    int32_t udp_fd;
    int32_t tcp_fd;
    int32_t wildcard; /* 1: the UDP socket reports each datagram's destination address */
};

/* An IPv6 network; an IPv4 network is mapped into IPv6, its prefix 96 bits longer. */
struct ru_network {
    uint8_t address[16];
    uint32_t bits; /* 0 to 128; the address is 0 after them */
};

/* How many checks of a secret may fail, see guard.h. */
struct ru_checks {
    uint32_t burst;        /* of one sender, at once; 0: no limits at all */
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
    uint32_t workers;        /* ordinary lane; their indexes come first */
    uint32_t slow_workers;   /* slow lane */
    uint32_t writers;        /* writing lane: 0 or 1, since a store has one writer at a time */
    uint32_t native_workers; /* native lane; 0: the engine answers no native commands */
    uint32_t native_writers; /* native writing lane: 0 or 1; it takes turns with `writers` */
    uint32_t batch_max;
    uint32_t slow_queue_max;
    uint32_t queue_age_max_ms; /* of requests that wait, in every other lane; 0: no limit */
    uint32_t udp_contexts;     /* most contexts queued and with workers */
    uint32_t udp_reserve;      /* kept for the replies of the I/O thread itself */
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
    uint32_t shared_sockets; /* 1: another process uses them, too: do not change their options */
    struct ru_checks checks;
};

/* A field of a configuration with a value out of range, and its range given the other fields. */
struct ru_config_fault {
    char field[32]; /* of struct ru_config */
    uint32_t value, least, most;
};

/* The form of a request. */
enum ru_request_kind {
    RU_REQUEST_PLAIN = 0,  /* body checked and clear; the payload is between challenge and end */
    RU_REQUEST_BARE = 1,   /* no body */
    RU_REQUEST_SEALED = 2, /* the payload is the whole body, still encrypted */
    RU_REQUEST_OPENED = 3, /* of types 4 and 5: the payload begins where the body does */
    RU_REQUEST_KINDS = 4,
};

/* A request as a worker reads it, RU_RECORD_SIZE bytes; the worker's loop reads only `payload_at`
 * to `body_size`. */
struct ru_record {
    uint64_t token;
    uint32_t payload_at; /* in the batch's data; peer and header come before the body */
    uint32_t payload_size;
    uint16_t command; /* group << 8 | command */
    uint8_t kind;     /* enum ru_request_kind */
    uint8_t encryption;
    uint8_t shard;
    uint8_t transport;  /* 0 UDP, 1 TCP */
    uint16_t body_size; /* BL */
    /* For the request log; the reply's fields are valid once it has been answered. */
    uint32_t request_size; /* header and body, as far as they were received */
    uint32_t reply_size;   /* 0 when it could not be sent */
    uint32_t reply_us;     /* since the datagram or the request's first byte was received */
    uint8_t reply_status;
    uint8_t spare[3];
};

/* A request that was answered, for the request log: fields of its struct ru_record. */
struct ru_note {
    uint8_t peer[RU_ADDRESS_BYTES]; /* sockaddr_in or sockaddr_in6 */
    uint32_t request_size;
    uint32_t reply_size;
    uint32_t reply_us;
    uint16_t command;
    uint8_t transport;
    uint8_t reply_status;
};

/* One of the requests that were answered, for the busiest peers. */
struct ru_sample {
    uint8_t peer[RU_ADDRESS_BYTES]; /* as above */
    uint32_t weight;                /* beside other samples taken at the same time */
};

enum ru_family {
    RU_FAMILY_COIN = 1,   /* a key coin */
    RU_FAMILY_LOCKER = 2, /* lockers whose keys have the first five bytes in common */
    RU_FAMILY_IPV4 = 4,
    RU_FAMILY_IPV6 = 6,
};

/* A sender, network or key coin with too many failed checks of a secret. */
struct ru_limited {
    uint8_t family;    /* enum ru_family */
    uint8_t bits;      /* of the address: 32, 24, 64 or 48 */
    uint8_t transport; /* 0 UDP, 1 TCP; of an address */
    uint8_t name[8];   /* address, 4 or 8 bytes; 5 bytes of a coin; zeros for lockers */
    uint64_t rest_ns;  /* until checks are allowed again, if none fails before */
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

/* A connection that ended. */
struct ru_closed {
    uint8_t peer[RU_ADDRESS_BYTES]; /* as above */
    uint32_t reason;                /* enum ru_closed_reason */
    uint64_t age_ns;
    uint64_t requests;
};

struct ru_engine;
struct ru_worker;
struct ru_store; /* coins/store.h */
struct ru_view;
struct ru_facts; /* commands/command.h */
struct ru_roots; /* memory/ */
struct ru_trees;

/* Thread: any. Check a configuration: 0, or -EINVAL with the first fault in `fault` unless NULL. */
int ru_config_check(const struct ru_config *config, struct ru_config_fault *fault);
/* Thread: any. The range of a field, whatever the other fields are; -EINVAL if it has none. */
int ru_config_range(const char *field, uint32_t *least, uint32_t *most);
/* Thread: any. 1 for a field that ru_engine_set_live() changes, otherwise 0. */
int ru_config_is_live(const char *field);
/* Thread: control. Maps and reserves all memory. -ENOMEM, -ENOSPC, -EFBIG if that fails, -EINVAL
 * and the fault as ru_config_check(); *engine is NULL on failure. */
int ru_engine_create(const struct ru_config *config, struct ru_engine **engine,
                     struct ru_config_fault *fault);
/* Thread: control, once the loop and every worker have returned. Sockets stay open. */
void ru_engine_destroy(struct ru_engine *engine);
/* Thread: loop. Serves until drained; 0, or -errno if the backend could not be opened or failed. */
int ru_engine_run(struct ru_engine *engine);
/* Thread: any. Wait until the loop serves (0) or has failed (its -errno); -ETIMEDOUT. */
int ru_engine_wait_ready(struct ru_engine *engine, uint32_t timeout_ms);
/* Thread: any. The step that failed; empty if none did. Valid after run or wait_ready. */
const char *ru_engine_fault(struct ru_engine *engine);
/* Thread: any. The backend and its tier, for the start-up line; empty until ready. */
const char *ru_engine_tier(struct ru_engine *engine);
/* Thread: any. The step that io_uring failed at, and its errno, if the choice was AUTO and epoll
 * serves; empty and 0 otherwise. Valid once ready. */
const char *ru_engine_refusal(struct ru_engine *engine, int *error);
/* Thread: any. Drain: accept nothing new, answer what was received, give up after deadline_ms. A
 * further call can only shorten the deadline. */
void ru_engine_drain(struct ru_engine *engine, uint32_t deadline_ms);
/* Thread: any. As ru_engine_drain(), but another process serves the same sockets: new arrivals are
 * left to it, and connections between two requests are sent through `channel`, a Unix
 * SOCK_SEQPACKET socket that must stay open until the engine has ended. One message per connection:
 * the listener's number in a byte and the descriptor as SCM_RIGHTS. */
void ru_engine_hand_over(struct ru_engine *engine, uint32_t deadline_ms, int channel);
/* Thread: any; calls of this function, ru_engine_set_live() and those "as above" must not overlap.
 * After ru_engine_hand_over(), when the other process ended first: serve again. -EINVAL if nothing
 * was handed over, -ESHUTDOWN if the loop has ended, -ETIMEDOUT after 5 s. */
int ru_engine_take_back(struct ru_engine *engine);
/* Thread: any, as above. The predecessor that shared the sockets has ended. shared: as
 * config.shared_sockets from now on. -ESHUTDOWN, -ETIMEDOUT. */
int ru_engine_own(struct ru_engine *engine, uint32_t shared);
/* Thread: one at a time, while the loop runs. Serve a connection that another process has accepted
 * on `listener`; on success the engine owns the descriptor. -EAGAIN if too many wait, -EINVAL. */
int ru_engine_adopt(struct ru_engine *engine, uint32_t listener, int fd);
/* Thread: control, if ru_engine_run() was never called; it does the same at its end. No more tokens
 * will come: ru_worker_take() returns. */
void ru_engine_close_workers(struct ru_engine *engine);
/* Thread: control, before a worker is opened. What native commands are executed on; both are borrowed
 * until ru_engine_destroy(). keys: has the coins that requests are sealed with, in place of `store`;
 * either may be NULL. facts: copied; its statistics and roots are the engine's. */
void ru_engine_set_native(struct ru_engine *engine, struct ru_store *store, struct ru_store *keys,
                          const struct ru_facts *facts);
/* Thread: one at a time. The addresses of the other RAIDA, 16 bytes each (IPv4 mapped into IPv6):
 * wrong tickets that they ask for over TCP do not count as failed checks. */
void ru_engine_set_raida(struct ru_engine *engine, const uint8_t *addresses, uint32_t count);
/* Thread: any. 1 if another address has asked so since the last call. */
int ru_engine_raida_missed(struct ru_engine *engine);
/* Thread: any. Add to what show_stats tells. index: of ru_facts.statistics. */
void ru_engine_add_statistic(struct ru_engine *engine, uint32_t index, uint64_t by);
/* Thread: any. The RU_STATISTICS numbers that show_stats tells. */
void ru_engine_statistics(struct ru_engine *engine, uint64_t *values);
/* Thread: control. lane_class: enum ru_lane_class. -EINVAL when out of range. */
int ru_engine_set_class(struct ru_engine *engine, uint32_t group, uint32_t command,
                        uint32_t lane_class);
/* Thread: control. The command is answered natively, whatever its class but RU_CLASS_NONE. -EINVAL if
 * commands/command.h has no such command, or its lane no workers. */
int ru_engine_set_native_command(struct ru_engine *engine, uint32_t group, uint32_t command);
/* Thread: control. The command's handler checks a secret and asks ru_worker_may_check() before.
 * -EINVAL when out of range. */
int ru_engine_guard(struct ru_engine *engine, uint32_t group, uint32_t command);
/* Thread: control, before the loop runs. Strangers can know the payload of the command's replies, so
 * that requests of types 1 and 2 are refused. -EINVAL when out of range. */
int ru_engine_set_public(struct ru_engine *engine, uint32_t group, uint32_t command);
/* Thread: any. Writes up to `count` of those that are limited now; returns how many there are. */
uint32_t ru_engine_limited(struct ru_engine *engine, struct ru_limited *limited, uint32_t count);
/* Thread: one publisher at a time. roots: RU_ROOTS_SIZE bytes, copied. */
void ru_engine_publish_roots(struct ru_engine *engine, const uint8_t *roots);
/* Thread: any. What votes and get_merkle_branch are answered with, for ru_trees_publish() (memory/trees.h)
 * by the same publisher; as long as the engine. */
struct ru_roots *ru_engine_roots(struct ru_engine *engine);
struct ru_trees *ru_engine_trees(struct ru_engine *engine);
/* Thread: any. One consistent set; values holds ru_counters_count() words. */
void ru_engine_counters(struct ru_engine *engine, uint64_t *values);
uint32_t ru_counters_count(void);
/* Thread: any. Counter `index`; NULL past the last. */
const struct ru_counter *ru_counters_row(uint32_t index);
/* Thread: any. The replies of workers to `command` (group << 8 | code): 256 counts by status.
 * Returns the sum of their times from receipt to reply, in nanoseconds. */
uint64_t ru_engine_tally(struct ru_engine *engine, uint32_t command, uint64_t *answered);
/* Thread: any. The gauges at the end of the newest lap; values holds ru_gauges_count() words, those
 * named *_ns in CLOCK_MONOTONIC. */
void ru_engine_gauges(struct ru_engine *engine, uint64_t *values);
uint32_t ru_gauges_count(void);
const char *ru_gauges_name(uint32_t index);
/* Thread: any. Make the loop run a lap soon: while the loop is alive, the counter `laps` grows. */
void ru_engine_wake(struct ru_engine *engine);
/* Thread: any. Copies up to count buckets; returns how many there are. sum_ns may be NULL. */
uint32_t ru_engine_histogram(struct ru_engine *engine, uint32_t kind, uint64_t *buckets,
                             uint32_t count, uint64_t *sum_ns);
uint64_t ru_hist_floor_ns(uint32_t bucket);
/* Thread: any, as above. Returns once the loop applies, at the end of a lap, the fields of `config`
 * for which ru_config_is_live(); the others are ignored. Connections over a lower limit stay;
 * running deadlines keep their start. -EINVAL if a value is out of range or connections_max is
 * above its value at creation, -ESHUTDOWN if the loop does not run, -ETIMEDOUT after 5 s. */
int ru_engine_set_live(struct ru_engine *engine, const struct ru_config *config);
/* Thread: any, as above. Lists up to RU_CONNECTIONS_LISTED open connections from number *first on
 * and sets *first for the next call. Returns their count, 0 at the end. -ESHUTDOWN, -ETIMEDOUT. */
int ru_engine_connections(struct ru_engine *engine, uint32_t *first,
                          struct ru_connection *connections);
/* Thread: any. The name of enum ru_conn_state, or NULL past the last. */
const char *ru_connection_state_name(uint32_t state);
/* Thread: any, one at a time. Removes up to RU_CLOSED_KEPT ended connections from the list, oldest
 * first, and returns their count. Normal ends after one request are not listed. missed: how many
 * did not fit the list since the engine was created. */
uint32_t ru_engine_closed(struct ru_engine *engine, struct ru_closed *closed, uint64_t *missed);
/* Thread: any. The name of enum ru_closed_reason, or NULL past the last. */
const char *ru_closed_reason_name(uint32_t reason);
/* Thread: any. How many threads answer requests. Each notes what it has answered, but for requests
 * whose body check failed, in a tap of its own. */
uint32_t ru_engine_taps(const struct ru_engine *engine);
/* Thread: one, the log's, for this and the next four. Wait until a request is noted, up to
 * `timeout_ms`, and then until a tap is half full, up to `gather_ms`. 0 if none was noted, or 1. */
int ru_engine_tap_wait(struct ru_engine *engine, uint32_t timeout_ms, uint32_t gather_ms);
/* Begin a round, in which each tap notes up to `notes` requests, and a few samples. None is noted
 * before the first one. */
void ru_engine_tap_begin(struct ru_engine *engine, uint32_t notes);
/* The requests that tap `tap` has counted since the start, of which what it noted can be taken. */
uint64_t ru_engine_tap_requests(const struct ru_engine *engine, uint32_t tap);
/* Take up to `count`, oldest first; returns how many. */
uint32_t ru_engine_tap_notes(struct ru_engine *engine, uint32_t tap, struct ru_note *notes,
                             uint32_t count);
uint32_t ru_engine_tap_samples(struct ru_engine *engine, uint32_t tap, struct ru_sample *samples,
                               uint32_t count);
/* Thread: any. From now on ru_engine_tap_wait() returns 1 at once. */
void ru_engine_tap_end(struct ru_engine *engine);
/* Thread: any. Bytes of the arena. */
uint64_t ru_engine_arena_size(struct ru_engine *engine);

/* Thread: worker. One handle per index; -EINVAL past the last, -EBUSY while it is open. */
int ru_worker_open(struct ru_engine *engine, uint32_t index, struct ru_worker **worker);
/* Thread: worker. Unanswered requests of the batch are answered 252. */
void ru_worker_close(struct ru_worker *worker);
/* Thread: worker. Wait for requests: their number, 0 on time-out, -ESHUTDOWN if the engine ended.
 * Requests whose body check fails are answered here and not counted. */
int ru_worker_take(struct ru_worker *worker, uint32_t timeout_ms);
/* The batch: records, and the bytes they refer to. Valid until the next take. */
const struct ru_record *ru_worker_records(struct ru_worker *worker);
const uint8_t *ru_worker_data(struct ru_worker *worker);
/* Thread: worker. The udp_reply_factor_max that the batch's replies are held to, also if a reload
 * has changed it since the take: what a worker decides by it is what is sent. */
uint32_t ru_worker_reply_factor(const struct ru_worker *worker);
/* Thread: worker. Call when Python has reacquired the GIL after the take: ends the measurement for
 * the counter worker_lock_wait_ns. Returns the size of the data. */
uint32_t ru_worker_resumed(struct ru_worker *worker);
/* How many of the batch's requests are still encrypted; the number changes with the batch. */
const uint32_t *ru_worker_sealed(struct ru_worker *worker);
/* Thread: worker, before the batch's first reply. Open its encrypted requests with keys from `view`,
 * which has begun; NULL: no coin is known. Those that are refused are answered; the others come
 * first among the records from now on, the refused ones behind them. Returns how many are left to
 * answer, or the store's error, with none opened. Ends the measurement as ru_worker_resumed(). */
int ru_worker_unseal(struct ru_worker *worker, struct ru_view *view);
/* Thread: worker. Open one of them, with its payload at `payload_at`; a second call changes nothing.
 * Returns 0, or the status it is refused with and must be answered with; otherwise as above. *record
 * is its record. */
int ru_worker_unseal_at(struct ru_worker *worker, uint32_t payload_at, struct ru_view *view,
                        const struct ru_record **record);
/* Thread: worker. Whether a secret may be checked for the batch's request with its payload at
 * `payload_at`: 1, or 0 if its sender has failed too often. After 0 any reply is replaced: a
 * datagram gets none, a connection 160 and its end. For checks that cost or change something. */
int ru_worker_may_check(struct ru_worker *worker, uint32_t payload_at);
/* Thread: worker. Such a check has been made: 1 if its result may be revealed, 0 as above. */
int ru_worker_checked(struct ru_worker *worker, uint32_t payload_at, uint32_t failed);
/* Thread: worker. Answer the next `count` requests of the batch, in order. payload: the payloads
 * one after the other, in the clear, sizes: their sizes. Replies to encrypted requests are sealed
 * here; one that has not shown its key gets the status alone. -EINVAL past the batch. */
int ru_worker_reply(struct ru_worker *worker, uint32_t count, const uint8_t *statuses,
                    const uint32_t *sizes, const uint8_t *payload);
/* Thread: worker, of a native lane. Answer requests until the engine has ended: 0; for `patience_ms`: 1;
 * or until the store has failed: its error, once the batch is answered, with the number of requests that
 * it answered 194 in *failed. Call it again after the latter two. */
int ru_worker_serve(struct ru_worker *worker, uint32_t patience_ms, uint32_t *failed);
/* Thread: worker. Return a token unchanged, the last step of a reply. For tests of stale tokens. */
void ru_worker_return(struct ru_worker *worker, uint64_t token);

enum ru_probe_result {
    RU_PROBE_UNTRIED = 1 /* a feature that it requires failed */
};

/* The backend that a node would get on this machine. */
struct ru_probe_backend {
    char tier[RU_TIER_TEXT];     /* as in the start-up line; empty when there is none */
    char fault[RU_FAULT_TEXT];   /* why there is none, in words */
    char refusal[RU_FAULT_TEXT]; /* what io_uring failed at, if it was tried and did */
    int32_t refusal_error;
    uint32_t is_ring;
    uint64_t locked_bytes_max; /* most a ring is charged to the locked-memory limit; 0: epoll */
};

/* Thread: any. Try every kernel feature; needs no engine and cleans up. results gets
 * ru_probe_count() values: 0: it works, RU_PROBE_UNTRIED, or the -errno it failed with. Returns 0
 * or -ENOMEM. Takes some ms; a second or two for each feature that hangs or finds no memory. */
int ru_probe_run(int32_t *results);
uint32_t ru_probe_count(void);
const char *ru_probe_name(uint32_t index);
/* Thread: any. Open the backend that `config` asks for (its listeners are ignored) as
 * ru_engine_run() would, and close it: 0 or -errno. Takes up to some seconds if locked memory is
 * short. */
int ru_probe_backend(const struct ru_config *config, struct ru_probe_backend *report);
/* cdef: end */

_Static_assert(RU_CONFIG_LISTENERS == RU_LISTENERS_MAX, "listeners");
_Static_assert(sizeof(((struct ru_checks *)0)->exempt) / sizeof(struct ru_network) == RU_EXEMPT_MAX,
               "exempt networks");
_Static_assert(sizeof(struct ru_record) == RU_RECORD_SIZE, "worker.py unpacks this layout");
_Static_assert(RU_INLINE_BYTES == RU_INLINE_SIZE, "inline reply");
_Static_assert(sizeof(((struct ru_probe_backend *)0)->fault) == RU_FAULT_TEXT &&
                   sizeof(((struct ru_probe_backend *)0)->refusal) == RU_FAULT_TEXT,
               "probe");

#endif
