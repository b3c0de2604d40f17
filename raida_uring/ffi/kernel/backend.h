/* backend.h: the operations that the loop starts, and the events that end them.
 *
 * Contract. Every operation is started by a function below and ended by exactly one event with
 * `ended` set; any number of events without it may precede that. An operation that cannot start
 * reports so by its ended event, never by a return value. A cancelled operation still gets its
 * ended event. A descriptor is closed only after every operation on it has ended. The loop owns
 * the buffers and slots named in an event until it lends them again. Only the loop thread calls
 * these functions; only wait() blocks.
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
    RU_OP_SEND_DATAGRAM, /* only failures are reported */
    RU_OP_IGNORED,       /* closes and cancellations */
};

struct ru_event {
    uint8_t operation;
    bool ended;
    bool truncated;      /* datagram longer than its slot */
    bool controlled;     /* the slot holds the control record of the destination address */
    uint32_t index;      /* listener or connection */
    uint32_t generation; /* of the connection */
    int32_t result;      /* bytes, a descriptor, or -errno */
    uint32_t buffer;     /* slot or TCP buffer handed to the loop, or RU_NONE */
};

struct ru_backend_setup {
    const struct ru_config *config;
    const struct ru_arena *arena;
    uint8_t *tcp_buffers; /* config->tcp_buffers of RU_TCP_BUFFER bytes, page aligned */
    int wake_fd;          /* an eventfd; its readiness is an RU_OP_WAKE event */
    char *fault;          /* RU_FAULT_TEXT bytes; gets the name of the step that failed */
};

struct ru_backend {
    const struct ru_backend_ops *ops;
    struct ru_backend_setup setup;
    char tier[RU_TIER_TEXT];
};

struct ru_backend_ops {
    /* 0, or -errno with setup->fault filled and everything undone. The setup is copied; the memory
     * it points at must stay valid until close(). */
    int (*open)(struct ru_backend **backend, const struct ru_backend_setup *setup);
    /* Call only after every operation has ended. */
    void (*close)(struct ru_backend *backend);

    void (*watch_wake)(struct ru_backend *backend);
    void (*accept)(struct ru_backend *backend, uint32_t listener);
    void (*receive_datagrams)(struct ru_backend *backend, uint32_t listener);
    /* once: a single receive; otherwise repeats until it ends. Bytes arrive in lent TCP buffers. */
    void (*receive)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                    bool once);
    /* A single receive of up to `size` bytes straight into `bytes`, which must stay valid until
     * the ended event; the buffer of that event is RU_NONE. */
    void (*receive_into)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                         uint8_t *bytes, uint32_t size);
    /* bytes must stay valid until the ended event. A short count is a success. */
    void (*send)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                 const uint8_t *bytes, uint32_t size);
    /* Send all of a small reply, then close the descriptor even if the send failed. No other
     * operation may be in flight on it. Reports one ended event, an RU_OP_SEND. */
    void (*send_last)(struct ru_backend *backend, uint32_t conn, uint32_t generation, int fd,
                      const uint8_t *bytes, uint32_t size);
    /* Reply to the peer named in `slot`; if `controlled`, from the request's destination address.
     * The slot and the bytes must stay valid until datagrams_sent() is true. */
    void (*send_datagram)(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                          const uint8_t *bytes, uint32_t size, bool controlled);
    /* True when the kernel has taken every datagram queued so far. */
    bool (*datagrams_sent)(struct ru_backend *backend);
    void (*cancel)(struct ru_backend *backend, enum ru_operation operation, uint32_t index,
                   uint32_t generation);
    void (*close_descriptor)(struct ru_backend *backend, int fd);
    /* Call before closing a descriptor whose socket another process keeps open: no more events
     * come from it. No operation may be in flight on it. */
    void (*forget_descriptor)(struct ru_backend *backend, int fd);

    /* The kernel may use a lent slot or buffer from the next wait() on. */
    void (*lend_slot)(struct ru_backend *backend, uint32_t slot);
    void (*lend_buffer)(struct ru_backend *backend, uint32_t buffer);

    /* Submit everything and wait for an event: spin for spin_ns, then sleep until timeout_ns have
     * passed (0: do not wait). 0 or -errno; 0 also after a time-out or an interruption. */
    int (*wait)(struct ru_backend *backend, uint64_t timeout_ns, uint64_t spin_ns);
    /* Copy out up to `count` events; returns their number. */
    uint32_t (*reap)(struct ru_backend *backend, struct ru_event *events, uint32_t count);
    /* True if everything that had arrived when the last wait() began could be reaped after it,
     * also when that wait() was cut short. */
    bool (*saw_all)(const struct ru_backend *backend);
    /* True if the completion queue has overflowed: events come late, none is lost. */
    bool (*overflowed)(struct ru_backend *backend);
    /* Receive one queued datagram into `slot` at once, after receive_datagrams() has ended.
     * False when there is none. */
    bool (*receive_now)(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                        struct ru_event *event);
};

extern const struct ru_backend_ops ru_backend_uring;
extern const struct ru_backend_ops ru_backend_epoll;

/* Why io_uring was tried and is not used; error is 0 when it is used or was not tried. */
struct ru_backend_refusal {
    char fault[RU_FAULT_TEXT]; /* the name of the step that failed */
    int error;                 /* a positive errno */
};

/* Open the backend that config->backend asks for: io_uring in the best available tier, or epoll
 * where the choice allows it. Returns what open() returns; `refusal` is also filled when io_uring's
 * failure is the result. */
int ru_backend_open(struct ru_backend **backend, const struct ru_backend_setup *setup,
                    struct ru_backend_refusal *refusal);

/* Most bytes that the kernel charges to the memlock limit for a ring with `slots` datagram slots. */
uint64_t ru_backend_uring_locked_bytes(const struct ru_config *config, uint32_t slots);

/* For open(): 0, or `result` if it is negative, with the name of that step in setup->fault. */
int ru_backend_step(const struct ru_backend_setup *setup, const char *step, int result);

#endif
