/* sleeper.h: who sleeps and who wakes whom.
 *
 * A sleeper announces itself, looks for work once more, then sleeps. A thread that adds work looks
 * for the announcement after a full fence. So no wake-up is lost, and none is sent without need.
 */
#ifndef RU_SLEEPER_H
#define RU_SLEEPER_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

/* An announcement of sleep that doubles as a futex word. */
struct ru_sleeper {
    _Alignas(RU_CACHE_LINE) uint32_t asleep;
};

/* Sleeper side: announce, then look for work once more, then wait or cancel. */
void ru_sleeper_announce(struct ru_sleeper *sleeper);
void ru_sleeper_cancel(struct ru_sleeper *sleeper);
/* Wait until woken or `timeout_ms` passed; clears the announcement. */
void ru_sleeper_wait(struct ru_sleeper *sleeper, uint32_t timeout_ms);
/* Waker side, after a push: true when the sleeper had announced itself (and now no longer has). */
bool ru_sleeper_claim(struct ru_sleeper *sleeper);
/* Claim, and wake a futex sleeper. */
void ru_sleeper_wake(struct ru_sleeper *sleeper);

#endif
