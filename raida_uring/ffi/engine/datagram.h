/* datagram.h: datagrams between the UDP contexts and the backend.
 *
 * Thread: loop.
 */
#ifndef RU_DATAGRAM_H
#define RU_DATAGRAM_H

#include <stdint.h>

struct ru_engine;
struct ru_event;

void ru_datagram_event(struct ru_engine *engine, const struct ru_event *event);
/* Send `size` bytes of `block`, or of the slot itself if that is RU_NONE, to the slot's peer. */
void ru_datagram_reply(struct ru_engine *engine, uint32_t slot, uint32_t block, uint32_t size);
/* The kernel refused a reply. */
void ru_datagram_failed(struct ru_engine *engine);
/* After a submission: free the slots whose replies the kernel has taken. */
void ru_datagram_release(struct ru_engine *engine);
/* After all completions of a lap: count replies that were not reported as failed. */
void ru_datagram_count_answered(struct ru_engine *engine);
/* Lend free slots and arm receives that ended. */
void ru_datagram_arm(struct ru_engine *engine);
/* Have the kernel drop what arrives from now on, so that draining comes to an end. */
void ru_datagram_refuse(struct ru_engine *engine);
/* Drop a datagram that must not be looked at, wherever it stands. */
void ru_datagram_limit(struct ru_engine *engine, uint32_t slot);
/* Take back the slots that the kernel did not fill, once every receive has ended. */
void ru_datagram_reclaim(struct ru_engine *engine);
/* Take what the sockets still hold, a part each lap. */
void ru_datagram_drain(struct ru_engine *engine);

#endif
