/* tally.h: what workers answered, by command and status.
 *
 * Owner: the engine; each worker counts in a set of its own, without a lock and without a line that
 * another one writes. A command's counts are allocated by its first answer. Readers add the sets up:
 * each count is exact, but they belong to no common moment.
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

/* Thread: the set's worker. tallies: its set, by command number. Without memory nothing counts. */
void ru_tally_count(struct ru_tally **tallies, uint16_t command, uint8_t status, uint64_t spent_ns);
/* Thread: any. Add what stands there for `command`; whether there is anything. */
bool ru_tally_add(struct ru_tally *const *tallies, uint16_t command, struct ru_tally *sum);
/* No thread may count any more. */
void ru_tally_free(struct ru_tally **tallies, uint32_t count);

#endif
