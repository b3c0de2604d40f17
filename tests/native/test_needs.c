/* test_needs.c: what a start needs is looked for, and what is missing is named.
 *
 * Files and directories are real ones, since the answers are those of the kernel: a name that leads to
 * another file, or nowhere, an open file without a name, a base whose files were replaced.
 */
#include "coins/needs.h"

#include <sys/stat.h>

#include "coins/store.h"
#include "native.h"

#define FAULT (-27001)
#define OTHER_FAULT (-27002)
#define MAP_BYTES (16ULL << 20)

/* ---- files ---- */

struct place {
    struct native_directory own;
    char path[NATIVE_PATH_SIZE + 16];
    char aside[NATIVE_PATH_SIZE + 16];
    int fd;
};

static int file_new(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        abort();
    return fd;
}

static struct place place_new(void)
{
    struct place place = {.own = native_directory_new()};
    (void)snprintf(place.path, sizeof(place.path), "%s/file", place.own.path);
    (void)snprintf(place.aside, sizeof(place.aside), "%s/aside", place.own.path);
    place.fd = file_new(place.path);
    return place;
}

static void place_remove(struct place *place)
{
    (void)close(place->fd);
    (void)unlink(place->path);
    (void)unlink(place->aside);
    native_directory_remove(&place->own);
}

/* ---- names ---- */

static void test_nothing_is_needed_at_first(void)
{
    struct ru_needs needs = {0};
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    ru_needs_end(&needs);
}

static void test_a_name_must_lead_to_the_open_file(void)
{
    struct place place = place_new();
    struct ru_needs needs = {0};
    EXPECT_EQUAL(ru_needs_add(&needs, place.path, place.fd, FAULT), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(rename(place.path, place.aside), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    (void)close(file_new(place.path)); /* another one under its name */
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    EXPECT_EQUAL(rename(place.aside, place.path), 0); /* and back */
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(unlink(place.path), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    EXPECT_EQUAL(symlink("/dev/null", place.path), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    ru_needs_end(&needs);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    place_remove(&place);
}

/* A directory, as a journal's, is known by what it is, not by what it contains. */
static void test_directories_are_names_too(void)
{
    struct native_directory outer = native_directory_new();
    char path[NATIVE_PATH_SIZE + 16], aside[NATIVE_PATH_SIZE + 16];
    struct ru_needs needs = {0};
    (void)snprintf(path, sizeof(path), "%s/journal", outer.path);
    (void)snprintf(aside, sizeof(aside), "%s/aside", outer.path);
    EXPECT_EQUAL(mkdir(path, 0700), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EXPECT_EQUAL(ru_needs_add(&needs, path, fd, FAULT), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(rename(path, aside), 0);
    EXPECT_EQUAL(mkdir(path, 0700), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    ru_needs_end(&needs);
    (void)close(fd);
    EXPECT_EQUAL(rmdir(path), 0);
    EXPECT_EQUAL(rmdir(aside), 0);
    native_directory_remove(&outer);
}

static void test_the_first_name_that_fails_is_told(void)
{
    struct place places[2] = {place_new(), place_new()};
    struct ru_needs needs = {0};
    char path[sizeof(places[0].path)];
    memcpy(path, places[0].path, sizeof(path));
    EXPECT_EQUAL(ru_needs_add(&needs, path, places[0].fd, FAULT), 0);
    memset(path, 'x', sizeof(path) - 1); /* it was copied */
    EXPECT_EQUAL(ru_needs_add(&needs, places[1].path, places[1].fd, OTHER_FAULT), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(unlink(places[1].path), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), OTHER_FAULT);
    EXPECT_EQUAL(unlink(places[0].path), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    ru_needs_end(&needs);
    place_remove(&places[0]);
    place_remove(&places[1]);
}

static void test_there_is_room_for_four_names(void)
{
    struct place place = place_new();
    struct ru_needs needs = {0};
    for (uint32_t i = 0; i < RU_NEEDS_NAMES_MAX; i++)
        EXPECT_EQUAL(ru_needs_add(&needs, place.path, place.fd, FAULT), 0);
    EXPECT_ABORT(ru_needs_add(&needs, place.path, place.fd, FAULT));
    needs.count--;
    EXPECT_ABORT(ru_needs_add(&needs, place.path, place.fd, 0));
    needs.count++;
    ru_needs_end(&needs);
    EXPECT_EQUAL(needs.count, 0);
    place_remove(&place);
}

/* ---- others' faults ---- */

static void test_a_refusal_holds_until_it_is_taken_back(void)
{
    struct place place = place_new();
    struct ru_needs needs = {0};
    EXPECT_EQUAL(ru_needs_add(&needs, place.path, place.fd, FAULT), 0);
    ru_needs_refuse(&needs, OTHER_FAULT);
    EXPECT_EQUAL(ru_needs_check(&needs), OTHER_FAULT);
    EXPECT_EQUAL(unlink(place.path), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT); /* what is seen now tells more */
    ru_needs_refuse(&needs, 0);
    EXPECT_EQUAL(ru_needs_check(&needs), FAULT);
    EXPECT_ABORT(ru_needs_refuse(&needs, 1));
    ru_needs_end(&needs);
    place_remove(&place);
}

static void test_the_base_is_needed(void)
{
    struct native_directory own = native_directory_new();
    char data[NATIVE_PATH_SIZE + 16], lock[NATIVE_PATH_SIZE + 16], aside[NATIVE_PATH_SIZE + 16];
    struct ru_needs needs = {0};
    (void)snprintf(data, sizeof(data), "%s/data.mdb", own.path);
    (void)snprintf(lock, sizeof(lock), "%s/lock.mdb", own.path);
    (void)snprintf(aside, sizeof(aside), "%s/aside", own.path);
    EXPECT_EQUAL(ru_base_open(own.path, MAP_BYTES, RU_BASE_CREATE, &needs.base), 0);
    struct ru_base *base = needs.base;
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(rename(data, aside), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), RU_BASE_GONE);
    EXPECT_EQUAL(rename(aside, data), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    EXPECT_EQUAL(rename(lock, aside), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), RU_BASE_LONE);
    EXPECT_EQUAL(rename(aside, lock), 0);
    EXPECT_EQUAL(ru_needs_check(&needs), 0);
    ru_needs_end(&needs);
    EXPECT(needs.base == NULL);
    ru_base_close(base);
    EXPECT_EQUAL(unlink(data) | unlink(lock), 0);
    native_directory_remove(&own);
}

int main(void)
{
    RUN(test_nothing_is_needed_at_first);
    RUN(test_a_name_must_lead_to_the_open_file);
    RUN(test_directories_are_names_too);
    RUN(test_the_first_name_that_fails_is_told);
    RUN(test_there_is_room_for_four_names);
    RUN(test_a_refusal_holds_until_it_is_taken_back);
    RUN(test_the_base_is_needed);
    return native_finish();
}
