/* test_follow.c: whoever waits for changes of the coins is woken by a commit, and misses none. */
#include <pthread.h>

#include "clock.h"
#include "coins/segment.h"
#include "coins/store.h"
#include "native.h"

#define CHANGES 200U
#define LONG_MS 2000U /* a wake-up that is lost takes as long */

struct house {
    struct native_directory directory;
    struct ru_store *store;
};

static struct house house_open(void)
{
    static const uint8_t id[RU_STORE_ID_BYTES] = "a followed store";
    struct house house = {.directory = native_directory_new()};
    if (ru_store_create((const uint8_t *)"4567", 4, &house.store) != 0 ||
        ru_store_start_journal(house.directory.fd, id, 1) != 0 ||
        ru_store_replay(house.store, house.directory.fd, id, 1, 0) != 0 ||
        ru_store_serve(house.store, house.directory.fd, -1, id, 0, 1, RU_SEGMENTS_MAX) != 0)
        abort();
    return house;
}

static void house_close(const struct house *house)
{
    struct ru_segment segments[RU_SEGMENTS_MAX];
    ru_store_close(house->store);
    for (int i = ru_segment_list(house->directory.fd, segments); i-- > 0;)
        EXPECT_EQUAL(ru_segment_remove(house->directory.fd, segments[i].index), 0);
    native_directory_remove(&house->directory);
}

static void change(const struct house *house, uint32_t value)
{
    struct ru_view *view;
    uint8_t coin[RU_COIN_AN_SIZE] = {1, 0, 0, 0, 7};
    uint8_t state;
    if (ru_view_open(house->store, RU_VIEW_WRITES, &view) != 0 || ru_view_begin(view) != 0)
        abort();
    memcpy(coin + RU_COIN_AN_AT, &value, sizeof(value));
    EXPECT_EQUAL(ru_view_set(view, coin, 1, RU_COIN_AN_SIZE, RU_COIN_AN_AT, 1, &state), 1);
    EXPECT_EQUAL(ru_view_commit(view), 0);
    ru_view_close(view);
}

static uint64_t applied(struct ru_store *store)
{
    struct ru_store_progress progress;
    ru_store_progress(store, &progress);
    return progress.applied;
}

/* About as fast as the commits come, so that many come when it is about to sleep. */
static void *follow(void *argument)
{
    struct ru_store *store = argument;
    uint64_t reached = 0;
    uint32_t late = 0;
    while (reached < CHANGES && late == 0) {
        const uint64_t began_ns = ru_now_ns();
        ru_store_await(store, reached, LONG_MS);
        late += ru_now_ns() - began_ns >= ru_clock_ms_to_ns(LONG_MS);
        reached = applied(store);
    }
    EXPECT_EQUAL(late, 0);
    return NULL;
}

static void test_commits_wake(void)
{
    struct house house = house_open();
    pthread_t thread;
    EXPECT_EQUAL(pthread_create(&thread, NULL, follow, house.store), 0);
    for (uint32_t i = 1; i <= CHANGES; i++)
        change(&house, i);
    EXPECT_EQUAL(pthread_join(thread, NULL), 0);
    ru_store_await(house.store, CHANGES - 1, LONG_MS); /* there is one already */
    house_close(&house);
}

static void *rouse(void *argument)
{
    ru_store_rouse(argument);
    return NULL;
}

static void test_rouse_is_not_lost(void)
{
    struct house house = house_open();
    pthread_t thread;
    ru_store_rouse(house.store); /* before the wait */
    ru_store_await(house.store, 0, LONG_MS);
    const uint64_t first_ns = ru_now_ns();
    for (uint32_t i = 0; i < CHANGES; i++) { /* about when it begins */
        EXPECT_EQUAL(pthread_create(&thread, NULL, rouse, house.store), 0);
        ru_store_await(house.store, 0, LONG_MS);
        EXPECT_EQUAL(pthread_join(thread, NULL), 0);
    }
    const uint64_t last_ns = ru_now_ns();
    EXPECT(last_ns - first_ns < ru_clock_ms_to_ns(LONG_MS));
    ru_store_await(house.store, 0, 5);
    EXPECT(ru_now_ns() - last_ns >= ru_clock_ms_to_ns(5)); /* none is left over */
    EXPECT_EQUAL(applied(house.store), 0);
    house_close(&house);
}

int main(void)
{
    RUN(test_commits_wake);
    RUN(test_rouse_is_not_lost);
    return native_finish();
}
