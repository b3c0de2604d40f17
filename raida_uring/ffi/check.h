/* check.h: assertions that stay on in every build.
 *
 * Why: this daemon answers for coins; when its own bookkeeping is wrong it must stop, not guess.
 * Use: RU_CHECK for our bugs only. Bad input and errno are values to handle, never assertions.
 */
#ifndef RU_CHECK_H
#define RU_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define RU_UNLIKELY(x) __builtin_expect(!!(x), 0)

#define RU_CHECK(condition)                                                                        \
    do {                                                                                           \
        if (RU_UNLIKELY(!(condition))) {                                                           \
            (void)fprintf(stderr, "raida-uring: check failed: %s (%s:%d)\n", #condition, __FILE__, \
                          __LINE__);                                                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Where no case of ours leads. */
#define RU_UNREACHABLE()                                                                           \
    do {                                                                                           \
        (void)fprintf(stderr, "raida-uring: unreachable (%s:%d)\n", __FILE__, __LINE__);           \
        abort();                                                                                   \
    } while (0)

#endif
