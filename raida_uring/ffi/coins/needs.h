/* needs.h: what a start would need to find acknowledged changes again: the base, and names that must
 * still lead to the files that are open. A commit looks before it acknowledges.
 *
 * Thread: ru_needs_add() and ru_needs_end() control; ru_needs_refuse() and ru_needs_check() any.
 */
#ifndef RU_NEEDS_H
#define RU_NEEDS_H

#include <stdint.h>

#include "coins/base.h"

#define RU_NEEDS_NAMES_MAX 4

struct ru_needs_name {
    char *path;
    int fd;    /* borrowed */
    int fault; /* what it is if the path leads elsewhere */
};

struct ru_needs {
    struct ru_base *base; /* borrowed; NULL: not yet known, and nothing is needed */
    struct ru_needs_name names[RU_NEEDS_NAMES_MAX];
    uint32_t count;
    int32_t refused; /* atomic: a fault that somebody else has found; 0: none */
};

/* `path` is copied. Returns 0 or -ENOMEM. */
int ru_needs_add(struct ru_needs *needs, const char *path, int fd, int fault);
void ru_needs_end(struct ru_needs *needs);
/* Have every commit fail with `fault`; 0: no more. */
void ru_needs_refuse(struct ru_needs *needs, int fault);
/* Returns 0, a fault of the base, or that of a name or of ru_needs_refuse(). A few system calls. */
int ru_needs_check(struct ru_needs *needs);

#endif
