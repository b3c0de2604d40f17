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
        if (RU_UNLIKELY(!(condition)))                                                             \
            ru_check_failed("check failed: " #condition, __FILE__, __LINE__);                      \
    } while (0)

/* Where no case of ours leads. */
#define RU_UNREACHABLE() ru_check_failed("unreachable", __FILE__, __LINE__)

/* Out of line, so that a check costs the code around it a comparison. */
__attribute__((noreturn, cold, noinline, unused)) static void
ru_check_failed(const char *what, const char *file, int line)
{
    (void)fprintf(stderr, "raida-uring: %s (%s:%d)\n", what, file, line);
    abort();
}

#endif
