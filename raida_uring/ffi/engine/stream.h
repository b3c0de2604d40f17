/* stream.h: TCP connections between the state machine and the backend.
 *
 * Thread: loop.
 */
#ifndef RU_STREAM_H
#define RU_STREAM_H

#include <stdbool.h>
#include <stdint.h>

struct ru_engine;
struct ru_event;

/* Serve a connection that was just opened: listen to it, or hand it over. */
void ru_stream_begin(struct ru_engine *engine, uint32_t index);
/* A receive, or a send, has something to tell. */
void ru_stream_received(struct ru_engine *engine, const struct ru_event *event);
void ru_stream_sent(struct ru_engine *engine, const struct ru_event *event);
/* A worker has replied: `size` bytes in `block`, or in the area if that is RU_NONE. */
void ru_stream_replied(struct ru_engine *engine, uint32_t index, uint32_t block, uint32_t size);
/* A lane has popped this connection. False if it was closed meanwhile and nobody waits for it. */
bool ru_stream_leave_lane(struct ru_engine *engine, uint32_t index);
/* Answer 160 to a request that must not be looked at or has waited for too long, count it in `counter`,
 * and close. State PROCESSING, in no lane and with no worker. */
void ru_stream_turn_away(struct ru_engine *engine, uint32_t index, uint64_t *counter);
/* Go on with closing a connection in state DONE: what it waited for may have ended. */
void ru_stream_continue_closing(struct ru_engine *engine, uint32_t index);
/* Close connections whose deadline is before engine->judged_ns. */
void ru_stream_expire(struct ru_engine *engine);
/* Serve connections that waited for buffers or blocks. */
void ru_stream_serve_waiting(struct ru_engine *engine);
/* Hand idle connections over; those that are not yet idle follow when they are. */
void ru_stream_hand_over(struct ru_engine *engine);
/* Close connections: idle ones, or all of them. */
void ru_stream_close_all(struct ru_engine *engine, bool idle_only);
/* The peer of an open connection, RU_ADDRESS_BYTES of a sockaddr; all zero when it cannot be
 * had. */
void ru_stream_peer(struct ru_engine *engine, uint32_t index, uint8_t *peer);
/* Time-outs have changed: deadlines may have become earlier. */
void ru_stream_watch_all(struct ru_engine *engine);

#endif
