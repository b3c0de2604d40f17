/* admission.h: which requests may ask for a check of a secret, and where requests wait.
 *
 * Thread: loop. Before a request is queued, and again before a worker gets it.
 */
#ifndef RU_ADMISSION_H
#define RU_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "commands/command.h"
#include "guard/guard.h"
#include "ru.h"

struct ru_engine;

/* Whether the request that `context` describes must not be looked at, because too many checks had
 * failed; counted then. */
bool ru_admission_refuses(struct ru_engine *engine, uint32_t context);
/* What a request costs the thread that opens, executes and answers it, in the unit of
 * RU_LIGHT_BUDGET. Thread: any. */
uint32_t ru_admission_cost(const struct ru_command *command, uint8_t encryption,
                           uint32_t body_size);
/* Where the request that `context` describes is to wait. lane: of its header. A request for the light
 * lane takes its share of the lap's budget, also if it is refused before it gets there. */
enum ru_lane_number ru_admission_lane(struct ru_engine *engine, uint32_t context,
                                      enum ru_lane_number lane);
/* Count a request that a bound kept from being looked at. */
void ru_admission_count(struct ru_engine *engine, enum ru_guard_bound bound);

#endif
