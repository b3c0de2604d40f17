/* needs.c: what a start would need to find acknowledged changes again. See needs.h. */
#include "coins/needs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"

int ru_needs_add(struct ru_needs *needs, const char *path, int fd, int fault)
{
    RU_CHECK(needs->count < RU_NEEDS_NAMES_MAX && fault < 0);
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    needs->names[needs->count++] = (struct ru_needs_name){copy, fd, fault};
    return 0;
}

void ru_needs_end(struct ru_needs *needs)
{
    while (needs->count > 0)
        free(needs->names[--needs->count].path);
    needs->base = NULL;
}

void ru_needs_refuse(struct ru_needs *needs, int fault)
{
    RU_CHECK(fault <= 0);
    __atomic_store_n(&needs->refused, fault, __ATOMIC_RELAXED);
}

static bool name_leads_to(const struct ru_needs_name *name)
{
    struct stat named, open;
    return stat(name->path, &named) == 0 && fstat(name->fd, &open) == 0 &&
           named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

int ru_needs_check(struct ru_needs *needs)
{
    int rc = needs->base ? ru_base_check(needs->base) : 0;
    for (uint32_t i = 0; rc == 0 && i < needs->count; i++)
        rc = name_leads_to(&needs->names[i]) ? 0 : needs->names[i].fault;
    return rc != 0 ? rc : __atomic_load_n(&needs->refused, __ATOMIC_RELAXED);
}
