/* tally.c: counting replies by command and status. */
#include "count/tally.h"

#include <stdlib.h>

#include "check.h"
#include "limits.h"

/* One writer: a store that cannot be torn is enough. */
static void tally_raise(uint64_t *word, uint64_t by)
{
    __atomic_store_n(word, *word + by, __ATOMIC_RELAXED);
}

void ru_tally_count(struct ru_tally **tallies, uint16_t command, uint8_t status, uint64_t spent_ns)
{
    RU_CHECK(command < RU_COMMANDS_COUNT); /* the loop hands out no others */
    struct ru_tally *tally = tallies[command];
    if (!tally) {
        tally = calloc(1, sizeof(*tally));
        if (!tally)
            return;
        __atomic_store_n(&tallies[command], tally, __ATOMIC_RELEASE);
    }
    tally_raise(&tally->answered[status], 1);
    tally_raise(&tally->spent_ns, spent_ns);
}

bool ru_tally_add(struct ru_tally *const *tallies, uint16_t command, struct ru_tally *sum)
{
    const struct ru_tally *tally = __atomic_load_n(&tallies[command], __ATOMIC_ACQUIRE);
    if (!tally)
        return false;
    sum->spent_ns += __atomic_load_n(&tally->spent_ns, __ATOMIC_RELAXED);
    for (uint32_t status = 0; status < RU_TALLY_STATUSES; status++)
        sum->answered[status] += __atomic_load_n(&tally->answered[status], __ATOMIC_RELAXED);
    return true;
}

void ru_tally_free(struct ru_tally **tallies, uint32_t count)
{
    if (!tallies)
        return;
    for (uint32_t i = 0; i < count; i++)
        free(tallies[i]);
    free((void *)tallies);
}
