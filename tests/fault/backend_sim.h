/* backend_sim.h: a seeded fake kernel under backend.h, and the strings by which a test pulls it.
 *
 * Test builds only. Everything happens in one thread and follows from the seed: time is a number,
 * sockets are arrays, and every choice a kernel has (order, delay, short counts, failures) is drawn.
 * The few system calls that the data plane makes besides are replaced at link time (SIM_WRAP in the
 * Makefile), so that no line of it knows. What breaks the contract of backend.h ends in sim_fail().
 */
#ifndef RU_BACKEND_SIM_H
#define RU_BACKEND_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel/backend.h"

#define SIM_PEERS_MAX 24
#define SIM_LISTENERS_MAX 2
#define SIM_FD 1000000 /* descriptors from here on are ours */

/* The world around the kernel. Called from within the data plane's calls. */
struct sim_world {
    /* The loop is about to wait, and to sleep if `sleeping`: its state is at rest. */
    void (*lap)(void *self, bool sleeping);
    /* Other threads and peers get a moment; `sleeping`: the loop sleeps meanwhile. */
    void (*turn)(void *self, bool sleeping);
    void (*datagram)(void *self, uint32_t peer, const uint8_t *bytes, uint32_t size);
    void (*stream)(void *self, uint32_t peer, const uint8_t *bytes, uint32_t size);
    /* The node is about to close (`reset`: without a farewell) the connection `fd` to `peer`. */
    void (*closing)(void *self, uint32_t peer, int fd, bool reset);
    /* The node passes the connection to `peer` on to another process. */
    void (*passing)(void *self, uint32_t peer);
    void *self;
};

/* How unfriendly the kernel is; each a probability in 1/256, or a limit. */
struct sim_mood {
    uint8_t late;         /* a ready operation stays behind for a while */
    uint8_t ends;         /* a multishot operation ends with its result */
    uint8_t fails;        /* accept and receive fail for no reason */
    uint8_t send_fails;   /* a datagram is refused */
    uint8_t split;        /* a submission is taken in part */
    uint32_t queue_max;   /* submission queue */
    uint32_t events_max;  /* completion queue */
    uint32_t descriptors; /* limit */
};

void sim_start(uint64_t seed, const struct sim_world *world);
/* Before the first descriptor. */
void sim_set_mood(const struct sim_mood *mood);
/* Ends the process unless every descriptor but the listeners' is closed. */
void sim_finish(void);
_Noreturn void sim_fail(const char *what, uint64_t value);
uint32_t sim_below(uint32_t count);
bool sim_chance(uint32_t of_256);
uint64_t sim_now_ns(void);
void sim_pass(uint64_t ns);
/* How far the clock of the processor that runs now is behind; returns what it was before. */
uint64_t sim_behind(uint64_t ns);

/* Peers. A TCP peer is a number below SIM_PEERS_MAX and free for reuse once sim_peer_gone(). */
struct ru_listener_config sim_listener(uint32_t listener, bool wildcard);
void sim_wake_descriptor(int fd);
bool sim_datagram_send(uint32_t listener, uint32_t name, const uint8_t *bytes, uint32_t size);
bool sim_connect(uint32_t listener, uint32_t peer, uint32_t name);
uint32_t sim_stream_send(uint32_t peer, const uint8_t *bytes, uint32_t size);
void sim_stream_end(uint32_t peer);
void sim_stream_reset(uint32_t peer);
void sim_stream_room(uint32_t peer, uint32_t size);
bool sim_peer_gone(uint32_t peer);
/* Bytes that the peer has sent and nobody has read. */
uint32_t sim_stream_unread(uint32_t peer);

/* The other process of a hand-over, one at a time. Its end of the channel takes nothing until there
 * is room; once it has ended, so have the connections that it was passed. */
int sim_other_begin(void);
void sim_other_room(uint32_t count);
void sim_other_end(void);
bool sim_other_ended(void);
/* It is done with one of its connections. */
void sim_other_close(uint32_t peer);
/* A connection that another process passes on to this one; -1 when descriptors have run out. */
int sim_other_passes(uint32_t peer, uint32_t name);

/* What the kernel holds, to be compared with what the node believes. */
bool sim_slot_lent(uint32_t slot);
bool sim_buffer_lent(uint32_t buffer);
/* Started and its end not told yet; fd: -1, or the one it must be on. */
bool sim_operation_live(enum ru_operation operation, uint32_t index, uint32_t generation, int fd);
uint32_t sim_operations(void);
bool sim_wake_pending(void);
/* Datagrams and connections that nobody has taken from a listener's sockets. */
uint32_t sim_listener_left(uint32_t listener);

struct sim_totals {
    uint64_t datagrams_received, datagrams_sent, datagrams_failed;
    uint64_t accepted;
};
const struct sim_totals *sim_totals(void);
/* True once since the last call if a FUTEX_WAKE named this word. */
bool sim_futex_woken(const uint32_t *word);

extern const struct ru_backend_ops ru_backend_sim;

#endif
