/* sim_kernel.h: the state of the simulated kernel, for its own files alone. */
#ifndef RU_TESTS_FAULT_SIM_KERNEL_H
#define RU_TESTS_FAULT_SIM_KERNEL_H

#include "backend_sim.h"

#include "wire/fast.h"

#define SIM_SLOTS_MAX 64
#define SIM_BUFFERS_MAX 64
#define SIM_OPERATIONS_MAX 256
#define SIM_EVENTS_MAX 4096
#define SIM_SUBMISSIONS_MAX 64
#define SIM_DESCRIPTORS_MAX 64
#define SIM_QUEUE_MAX 16 /* datagrams in a socket; connections in a backlog */
#define SIM_DATAGRAM_MAX 1600
#define SIM_STREAM_MAX 8192 /* bytes in a receive buffer */
#define SIM_SUM_BYTES 512   /* compared at either end of memory in flight */
#define SIM_WORDS_MAX 16

struct sim_datagram {
    uint32_t name;
    uint32_t size;
    uint8_t bytes[SIM_DATAGRAM_MAX];
};

struct sim_listening {
    uint32_t backlog[SIM_QUEUE_MAX];
    uint32_t backlog_count;
    bool shut;
    bool filtered;
    struct sim_datagram datagrams[SIM_QUEUE_MAX];
    uint32_t first, count;
};

struct sim_socket {
    bool used, accepted;
    bool elsewhere;   /* another process has it open, too */
    bool shut;        /* the node has ended its half */
    uint32_t holders; /* descriptors of any process */
    bool ended, reset;
    uint32_t name;
    uint32_t room; /* bytes that the peer would still take */
    uint32_t size;
    uint8_t bytes[SIM_STREAM_MAX];
};

enum sim_descriptor_kind {
    SIM_CLOSED,
    SIM_LISTENER,
    SIM_SOCKET,
    SIM_LEAVING, /* a socket that closes behind its last send */
    SIM_CLOSING, /* a socket whose close is queued */
    SIM_NULL_DEVICE,
};
struct sim_descriptor {
    uint8_t kind;
    bool lingers_not;
    bool forgotten; /* the backend has been told that it lives on elsewhere */
    uint32_t peer;
};

struct sim_operation {
    uint8_t operation;
    bool once, submitted, cancelled, told;
    bool last;   /* the descriptor closes behind it */
    bool copied; /* its end is among the events that the loop looks at now */
    uint32_t index, generation;
    int fd;
    uint32_t waiting; /* events not reaped */
    uint8_t *into;
    const uint8_t *from;
    uint32_t size, sum;
    uint32_t done; /* of a last send */
};

enum sim_submission_kind {
    SIM_SUBMIT_START,
    SIM_SUBMIT_CANCEL,
    SIM_SUBMIT_CLOSE,
    SIM_SUBMIT_DATAGRAM,
};
struct sim_submission {
    uint8_t kind, operation;
    bool controlled;
    uint32_t index, generation; /* or listener and slot */
    int fd;
    const uint8_t *bytes;
    uint32_t size, sum;
};

/* A provided-buffer ring: what was lent in the order of lending. */
struct sim_group {
    uint32_t ring[SIM_SLOTS_MAX];
    uint32_t count, visible;
    bool lent[SIM_SLOTS_MAX]; /* until the event has been reaped */
};
_Static_assert(SIM_BUFFERS_MAX <= SIM_SLOTS_MAX, "one kind of ring");

/* One kernel at a time, for the replaced system calls know of no object. */
struct sim {
    struct sim_world world;
    struct sim_mood mood;
    struct ru_random random;
    uint64_t now_ns;
    uint64_t behind_ns; /* the clock that is read now */
    struct ru_backend *backend;
    bool in_world;
    int wake_fd;
    bool wake;
    bool received_now;
    struct sim_totals totals;
    int other; /* the channel to another process */
    bool other_ended;
    uint32_t other_room;
    uint32_t descriptors_used; /* against the limit */
    struct sim_descriptor descriptors[SIM_DESCRIPTORS_MAX];
    struct sim_socket sockets[SIM_PEERS_MAX];
    struct sim_listening listening[SIM_LISTENERS_MAX];
    struct sim_group slots, buffers;
    struct sim_operation operations[SIM_OPERATIONS_MAX];
    uint32_t operations_count;
    struct sim_submission submissions[SIM_SUBMISSIONS_MAX];
    uint32_t submissions_count;
    struct ru_event events[SIM_EVENTS_MAX];
    uint32_t events_head, events_tail;
    uint32_t visible; /* events in the completion queue; those behind them overflowed it */
    const uint32_t *woken[SIM_WORDS_MAX];
    uint32_t woken_count;
};
extern struct sim sim;

#define SIM_CHECK(condition, what, value)                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail(what, value);                                                                 \
    } while (0)

/* sim_world.c */
void sim_turn(bool sleeping);
void sim_elsewhere(void);
uint32_t sim_sum(const uint8_t *bytes, uint32_t size);
int sim_allocate(enum sim_descriptor_kind kind, uint32_t peer);
struct sim_descriptor *sim_descriptor(int fd);
struct sim_socket *sim_socket(int fd);
void sim_no_operation_on(int fd);
void sim_close_now(int fd);
void sim_closing(int fd);
int sim_accept_from(uint32_t number);

/* sim_operations.c */
struct sim_operation *sim_look(uint8_t operation, uint32_t index, uint32_t generation, bool copied);
struct sim_operation *sim_find(uint8_t operation, uint32_t index, uint32_t generation);
void sim_forget(void);
void sim_post(const struct ru_event *event);
struct sim_datagram *sim_next_datagram(uint32_t number);
void sim_fill_slot(uint32_t number, uint32_t slot, const struct sim_datagram *datagram,
                   struct ru_event *event);
bool sim_step(struct sim_operation *operation);

#endif
