/* width.h: how many batches of a lane run at once, and how large they are.
 *
 * Thread: loop.
 */
#ifndef RU_WIDTH_H
#define RU_WIDTH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/lane.h"

struct ru_engine;

/* How many requests the lane's next batch has, at most. */
uint32_t ru_width_batch(const struct ru_lane *lane);
/* Until when the lane's next batch has to wait for those that run; 0: it has not to wait. */
uint64_t ru_width_wait_until_ns(const struct ru_engine *engine, const struct ru_lane *lane);
/* Whether no other batch of the lane is young and at work. */
bool ru_width_is_alone(const struct ru_engine *engine, const struct ru_lane *lane);
/* A worker has been given a batch that runs alone: watch it, if it is time to. */
void ru_width_sample(struct ru_engine *engine, struct ru_lane *lane, uint32_t worker);
/* The watched batch took `spent_ns`. */
void ru_width_sampled(struct ru_engine *engine, struct ru_lane *lane, uint64_t spent_ns);
/* While requests wait for running batches: find those that wait themselves. */
void ru_width_look(struct ru_engine *engine, const struct ru_lane *lane);
/* Judge the watched batch before it has come back, if it blocks. */
void ru_width_age(struct ru_engine *engine, struct ru_lane *lane);

#endif
