/* turns.h: a lock that is had in the order in which it was asked for.
 *
 * Why: whoever holds a mutex for long and takes it again at once would have it every time, before the
 * one that it has woken runs.
 * Thread: any.
 */
#ifndef RU_TURNS_H
#define RU_TURNS_H

#include <pthread.h>
#include <stdint.h>

#include "check.h"

struct ru_turns {
    pthread_mutex_t mutex; /* for a moment */
    pthread_cond_t changed;
    uint64_t asked; /* how many turns were asked for */
    uint64_t ended; /* ... and have ended: turn number `ended` is under way, or nobody's */
};

static inline void ru_turns_init(struct ru_turns *turns)
{
    *turns = (struct ru_turns){0};
    (void)pthread_mutex_init(&turns->mutex, NULL);
    (void)pthread_cond_init(&turns->changed, NULL);
}

static inline void ru_turns_destroy(struct ru_turns *turns)
{
    RU_CHECK(turns->asked == turns->ended);
    (void)pthread_cond_destroy(&turns->changed);
    (void)pthread_mutex_destroy(&turns->mutex);
}

/* Wait until every turn that was asked for before has ended. */
static inline void ru_turns_begin(struct ru_turns *turns)
{
    (void)pthread_mutex_lock(&turns->mutex);
    uint64_t own = turns->asked++;
    while (turns->ended != own)
        (void)pthread_cond_wait(&turns->changed, &turns->mutex);
    (void)pthread_mutex_unlock(&turns->mutex);
}

static inline void ru_turns_end(struct ru_turns *turns)
{
    (void)pthread_mutex_lock(&turns->mutex);
    RU_CHECK(turns->ended < turns->asked);
    turns->ended++;
    if (turns->ended < turns->asked)
        (void)pthread_cond_broadcast(&turns->changed);
    (void)pthread_mutex_unlock(&turns->mutex);
}

#endif
