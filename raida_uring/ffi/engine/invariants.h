/* invariants.h: what holds between two laps, whatever has happened.
 *
 * Thread: loop. A broken invariant is our bug and aborts, see check.h.
 */
#ifndef RU_INVARIANTS_H
#define RU_INVARIANTS_H

struct ru_engine;

/* What can be seen without walking anything: at the end of every lap. */
void ru_invariants_check_lap(const struct ru_engine *engine);
/* All sums, in time that grows with the engine's memory: when it begins to serve and to drain, and
 * in tests after every lap. */
void ru_invariants_check_all(const struct ru_engine *engine);

#endif
