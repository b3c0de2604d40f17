/* admission.h: which requests may ask for a check of a secret, and where requests wait.
 *
 * Thread: loop. Before a request is queued, and again before a worker gets it.
 */
#ifndef RU_ADMISSION_H
#define RU_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "guard/guard.h"
#include "ru.h"

struct ru_engine;

/* Whether the request that `context` describes must not be looked at, because too many checks had
 * failed; counted then. */
bool ru_admission_refuses(struct ru_engine *engine, uint32_t context);
/* Where the request that `context` describes is to wait. lane: of its header. */
enum ru_lane_number ru_admission_lane(const struct ru_engine *engine, uint32_t context,
                                      enum ru_lane_number lane);
/* Count a request that a bound kept from being looked at. */
void ru_admission_count(struct ru_engine *engine, enum ru_guard_bound bound);

#endif
