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
void ru_datagram_reply(struct ru_engine *engine, uint32_t slot, uint32_t block, uint32_t size);
void ru_datagram_failed(struct ru_engine *engine);
/* After a submission: slots whose replies have gone are free. */
void ru_datagram_release(struct ru_engine *engine);
/* After all completions of a lap: replies not reported as failed were answered. */
void ru_datagram_count_answered(struct ru_engine *engine);
/* Lend free slots and arm receives that ended. */
void ru_datagram_arm(struct ru_engine *engine);
/* Let the kernel drop what arrives from now on, so that draining comes to an end. */
void ru_datagram_refuse(struct ru_engine *engine);
/* Drop a datagram that must not be looked at, from any place that is ours. */
void ru_datagram_limit(struct ru_engine *engine, uint32_t slot);
/* Once every receive has ended: lent slots are ours again. */
void ru_datagram_reclaim(struct ru_engine *engine);
/* Answer what the sockets still hold. */
void ru_datagram_drain(struct ru_engine *engine);

#endif
