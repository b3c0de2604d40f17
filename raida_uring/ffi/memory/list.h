/* list.h: lists of indexes, linked through an array of their own.
 *
 * Why an array beside the members and not fields in them: one implementation serves every kind of
 * member. A member is in one list of its array at a time; whether it is in one, its owner knows.
 * Owner: whoever owns the array. Nothing is allocated; every operation but ru_list_check() is O(1).
 */
#ifndef RU_LIST_H
#define RU_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "number.h"

struct ru_link {
    uint32_t next; /* RU_NONE: the last */
    uint32_t previous;
};

struct ru_list {
    uint32_t first; /* RU_NONE: empty */
    uint32_t last;
};

#define RU_LIST_EMPTY ((struct ru_list){RU_NONE, RU_NONE})

static inline bool ru_list_is_empty(const struct ru_list *list)
{
    return list->first == RU_NONE;
}

static inline void ru_list_append(struct ru_list *list, struct ru_link *links, uint32_t index)
{
    links[index] = (struct ru_link){.next = RU_NONE, .previous = list->last};
    if (list->last != RU_NONE)
        links[list->last].next = index;
    else
        list->first = index;
    list->last = index;
}

static inline void ru_list_remove(struct ru_list *list, struct ru_link *links, uint32_t index)
{
    struct ru_link link = links[index];
    RU_CHECK(link.previous == RU_NONE ? list->first == index : links[link.previous].next == index);
    if (link.previous != RU_NONE)
        links[link.previous].next = link.next;
    else
        list->first = link.next;
    if (link.next != RU_NONE)
        links[link.next].previous = link.previous;
    else
        list->last = link.previous;
}

/* The members, counted; aborts unless the links agree and there are at most `count_max`. */
static inline uint32_t ru_list_check(const struct ru_list *list, const struct ru_link *links,
                                     uint32_t count_max)
{
    uint32_t count = 0, previous = RU_NONE;
    for (uint32_t i = list->first; i != RU_NONE; i = links[i].next, count++) {
        RU_CHECK(count < count_max && links[i].previous == previous);
        previous = i;
    }
    RU_CHECK(list->last == previous);
    return count;
}

#endif
