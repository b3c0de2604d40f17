/* store_rig.h: a store whose coins can be changed, though not committed. */
#ifndef RU_TESTS_STORE_RIG_H
#define RU_TESTS_STORE_RIG_H

#include "coins/segment.h"
#include "coins/store.h"
#include "native.h"

#define RIG_SHORT_PAGE 7007U /* cannot be read: page 7 of denomination -1 */

struct rig {
    int directory;
    struct ru_store *store;
};

/* A store that serves, from the journal in `directory`. fresh: make the journal first. interval: commits
 * do not wait for the disk. */
static inline struct ru_store *rig_serve(int directory, bool fresh, bool interval)
{
    static const uint8_t id[RU_STORE_ID_BYTES] = "a rig's store";
    struct ru_store *store;
    if (ru_store_create((const uint8_t *)"4567", 4, &store) != 0 ||
        ru_memory_load(&store->memory, RIG_SHORT_PAGE, NULL, 0) != 0 ||
        (fresh && ru_store_start_journal(directory, id, 1) != 0) ||
        ru_store_replay(store, directory, id, 1, 0) < 0 ||
        ru_store_serve(store, directory, -1, id, 0, interval, RU_SEGMENTS_MAX) != 0)
        abort();
    return store;
}

static inline void rig_remove_journal(int directory)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    for (int i = ru_segment_list(directory, segments); i-- > 0;) {
        if (ru_segment_remove(directory, segments[i].index) != 0)
            abort();
    }
}

/* The files have no names any more when this returns, and go with the process. */
static inline void rig_open(struct rig *rig)
{
    const struct native_directory own = native_directory_new();
    rig->directory = own.fd;
    rig->store = rig_serve(own.fd, true, true);
    rig_remove_journal(own.fd);
    if (rmdir(own.path) != 0)
        abort();
}

static inline void rig_close(struct rig *rig)
{
    ru_store_close(rig->store);
    (void)close(rig->directory);
}

/* A view that has begun. */
static inline struct ru_view *rig_view(const struct rig *rig, bool writing)
{
    struct ru_view *view;
    if (ru_view_open(rig->store, writing, &view) != 0 || ru_view_begin(view) != 0)
        abort();
    return view;
}

static inline void rig_name(uint8_t *name, int denomination, uint32_t serial)
{
    name[0] = (uint8_t)denomination;
    for (uint32_t i = 0; i < 4; i++)
        name[1 + i] = (uint8_t)(serial >> (24 - 8 * i));
}

/* The AN of a coin that can be read. */
static inline void rig_an(struct ru_view *view, const uint8_t *name, uint8_t *an)
{
    uint8_t record[RU_PAGE_RECORD_SIZE];
    uint8_t state;
    if (ru_view_gather(view, name, 1, RU_COIN_NAME_SIZE, record, &state) != 1)
        abort();
    memcpy(an, record, RU_AN_SIZE);
}

#endif
