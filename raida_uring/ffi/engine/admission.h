/* admission.h: which requests may ask for a check of a secret.
 *
 * Thread: loop. Before a request is queued, and again before a worker gets it.
 */
#ifndef RU_ADMISSION_H
#define RU_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "guard/guard.h"

struct ru_engine;

/* Whether the request that `context` describes must not be looked at, because too many checks had
 * failed; counted then. */
bool ru_admission_refuses(struct ru_engine *engine, uint32_t context);
/* Count a request that a bound kept from being looked at. */
void ru_admission_count(struct ru_engine *engine, enum ru_guard_bound bound);

#endif
