/* backend.h: what the loop asks of a kernel, and what it hears back.
 *
 * Contract. Everything is an operation: started here, ended by exactly one event with `ended` set,
 * after any number of events without. An operation that failed to start says so by such an event,
 * never by a return value. Cancelling asks an operation to end; its ended event still comes. A
 * descriptor is closed only after every operation on it has ended. Buffers and slots in an event
 * are the loop's until lent again. All functions are called by the loop thread only; none blocks
 * but wait().
 */
#ifndef RU_BACKEND_H
#define RU_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/arena.h"
#include "ru.h"

enum ru_operation { /* also the operation byte of a token; 0 is not one */
    RU_OP_WAKE = 1,
    RU_OP_ACCEPT,
    RU_OP_DATAGRAMS,
    RU_OP_RECEIVE,
    RU_OP_SEND,
    RU_OP_SEND_DATAGRAM, /* heard of only when it failed */
    RU_OP_IGNORED,       /* closes and cancellations */
};

struct ru_event {
    uint8_t operation;
    bool ended;
    bool truncated;      /* datagram longer than its slot */
    bool controlled;     /* the slot holds the record of the address that was asked */
    uint32_t index;      /* listener or connection */
    uint32_t generation; /* of the connection */
    int32_t result;      /* bytes, a descriptor, or -errno */
    uint32_t buffer;     /* slot or TCP buffer now the loop's, or RU_NONE */
};

struct ru_backend_setup {
    const struct ru_config *config;
    const struct ru_arena *arena;
    uint8_t *tcp_buffers; /* config->tcp_buffers of RU_TCP_BUFFER bytes, page aligned */
    int wake_fd;          /* an eventfd; its readiness is an RU_OP_WAKE event */
    char *fault;          /* RU_FAULT_TEXT bytes for what failed, in words */
};

struct ru_backend {
    const struct ru_backend_ops *ops;
    struct ru_backend_setup setup;
    char tier[RU_TIER_TEXT];
};

struct ru_backend_ops {
    /* 0, or -errno with setup->fault filled and nothing left behind. The setup is copied, the
     * memory it points at borrowed until close(). */
    int (*open)(struct ru_backend **backend, const struct ru_backend_setup *setup);
    /* Only after every operation has ended. */
    void (*close)(struct ru_backend *backend);

    void (*watch_wake)(struct ru_backend *backend);
    void (*accept)(struct ru_backend *backend, uint32_t listener);
    void (*receive_datagrams)(struct ru_backend *backend, uint32_t listener);
    /* once: a single receive; else until it ends. Bytes come in lent TCP buffers. */
    void (*receive)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                    bool once);
    /* A single receive of up to `size` bytes straight into memory that must stay until the ended
     * event, whose buffer is RU_NONE. */
    void (*receive_into)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                         uint8_t *bytes, uint32_t size);
    /* bytes must stay until the ended event. A short count is a success. */
    void (*send)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                 const uint8_t *bytes, uint32_t size);
    /* Send all of a small reply and then close the descriptor, whatever became of it. No other
     * operation may be in flight on it. One ended event, an RU_OP_SEND. */
    void (*send_last)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                      const uint8_t *bytes, uint32_t size);
    /* Reply to the peer named in `slot`, from the address that was asked if `controlled`. The
     * slot and the bytes must stay until datagrams_sent() is true. */
    void (*send_datagram)(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                          const uint8_t *bytes, uint32_t size, bool controlled);
    /* True when the kernel has taken every datagram queued so far. */
    bool (*datagrams_sent)(struct ru_backend *backend);
    void (*cancel)(struct ru_backend *backend, enum ru_operation operation, uint32_t index,
                   uint32_t generation);
    void (*close_descriptor)(struct ru_backend *backend, int fd);
    /* Before the close of a descriptor whose socket lives on in another process: hear of it no
     * more. No operation may be in flight on it. */
    void (*forget_descriptor)(struct ru_backend *backend, int fd);

    /* Visible to the kernel from the next wait() on. */
    void (*lend_slot)(struct ru_backend *backend, uint32_t slot);
    void (*lend_buffer)(struct ru_backend *backend, uint32_t buffer);

    /* Hand everything over and wait for an event: spin for spin_ns, then sleep until timeout_ns
     * have passed (0: do not wait). 0 or -errno; a time-out or an interruption is 0. */
    int (*wait)(struct ru_backend *backend, uint64_t timeout_ns, uint64_t spin_ns);
    /* Copy out up to `count` events; their number. */
    uint32_t (*reap)(struct ru_backend *backend, struct ru_event *events, uint32_t count);
    /* Whether all that had come when the last wait() began was there to be reaped, whatever cut that
     * short. */
    bool (*saw_all)(const struct ru_backend *backend);
    /* Events were lost sight of for a while: the completion queue had overflowed. */
    bool (*overflowed)(struct ru_backend *backend);
    /* Receive one queued datagram into `slot` at once, after receive_datagrams() has ended.
     * False when there is none. */
    bool (*receive_now)(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                        struct ru_event *event);
};

extern const struct ru_backend_ops ru_backend_uring;
extern const struct ru_backend_ops ru_backend_epoll;

/* Why io_uring does not serve although it was tried; error is 0 where it does or was not. */
struct ru_backend_refusal {
    char fault[RU_FAULT_TEXT]; /* what failed, in words */
    int error;                 /* a positive errno */
};

/* Open what config->backend asks for: io_uring in the best tier it offers, epoll where it may stand
 * in. The engine and the probe both decide by this. Result as open()'s; a refusal is told also
 * where it is the result. */
int ru_backend_open(struct ru_backend **backend, const struct ru_backend_setup *setup,
                    struct ru_backend_refusal *refusal);

#endif
