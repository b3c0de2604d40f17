/* tally.h: what workers answered, by command and status.
 *
 * Owner: the engine. Each worker counts in a set of its own, without a lock and without a cache
 * line that another one writes. The first answer to a command allocates its counts. Readers add the
 * sets up: each count is exact, but the counts are not from the same moment.
 */
#ifndef RU_TALLY_H
#define RU_TALLY_H

#include <stdbool.h>
#include <stdint.h>

#define RU_TALLY_STATUSES 256

/* One command, one worker. */
struct ru_tally {
    uint64_t spent_ns; /* from receipt in full to the reply, of all together */
    uint64_t answered[RU_TALLY_STATUSES];
};

/* Thread: the worker whose set `tallies` is, by command number. If no memory can be had, the answer
 * is not counted. */
void ru_tally_count(struct ru_tally **tallies, uint16_t command, uint8_t status, uint64_t spent_ns);
/* Thread: any. Add a set's counts of `command` to `sum`; false when it has none. */
bool ru_tally_add(struct ru_tally *const *tallies, uint16_t command, struct ru_tally *sum);
/* No thread may count any more. */
void ru_tally_free(struct ru_tally **tallies, uint32_t count);

#endif
