/* sleeper.c: a futex word that says whether somebody sleeps on it. */
#include "memory/sleeper.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

void ru_sleeper_announce(struct ru_sleeper *sleeper)
{
    __atomic_store_n(&sleeper->asleep, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void ru_sleeper_cancel(struct ru_sleeper *sleeper)
{
    __atomic_store_n(&sleeper->asleep, 0, __ATOMIC_RELAXED);
}

void ru_sleeper_wait(struct ru_sleeper *sleeper, uint32_t timeout_ms)
{
    struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                               .tv_nsec = (long)ru_clock_ms_to_ns(timeout_ms % 1000)};
    /* Not FUTEX_PRIVATE: the waiter may be another process over the same arena. */
    (void)syscall(SYS_futex, &sleeper->asleep, FUTEX_WAIT, 1, &timeout, NULL, 0);
    ru_sleeper_cancel(sleeper);
}

bool ru_sleeper_claim(struct ru_sleeper *sleeper)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&sleeper->asleep, __ATOMIC_RELAXED))
        return false;
    return __atomic_exchange_n(&sleeper->asleep, 0, __ATOMIC_ACQ_REL) == 1;
}

void ru_sleeper_wake(struct ru_sleeper *sleeper)
{
    if (ru_sleeper_claim(sleeper))
        (void)syscall(SYS_futex, &sleeper->asleep, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
