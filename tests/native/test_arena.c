/* test_arena.c: memory is reserved whole, however often the calling thread is interrupted. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "native.h"

enum {
    RESERVED_BYTES = 64 << 20, /* tens of milliseconds */
    INTERRUPTION_US = 3000,    /* several steps, on an emulated processor too */
};

static volatile sig_atomic_t interruptions;

static void count_interruption(int number)
{
    (void)number;
    interruptions++;
}

static void test_interrupted_reservation_is_complete(void)
{
    const struct itimerval often = {{0, INTERRUPTION_US}, {0, INTERRUPTION_US}};
    const struct itimerval never = {{0, 0}, {0, 0}};
    struct stat found;
    int fd = memfd_create("test", MFD_CLOEXEC);
    EXPECT(fd >= 0);
    EXPECT(signal(SIGALRM, count_interruption) != SIG_ERR);
    EXPECT_EQUAL(setitimer(ITIMER_REAL, &often, NULL), 0);
    EXPECT_EQUAL(ru_arena_reserve(fd, RESERVED_BYTES), 0);
    EXPECT_EQUAL(setitimer(ITIMER_REAL, &never, NULL), 0);
    EXPECT(interruptions > 0);
    EXPECT_EQUAL(fstat(fd, &found), 0);
    EXPECT_EQUAL(found.st_size, RESERVED_BYTES);
    EXPECT_EQUAL(found.st_blocks, RESERVED_BYTES / 512);
    (void)close(fd);
}

static void test_refused_reservation_says_why(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT(fd >= 0);
    EXPECT_EQUAL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    EXPECT_EQUAL(ru_arena_reserve(fd, 2 * RU_RESERVE_STEP), -EPERM);
    EXPECT_EQUAL(ru_arena_reserve(-1, 1), -EBADF);
    (void)close(fd);
}

int main(void)
{
    RUN(test_interrupted_reservation_is_complete);
    RUN(test_refused_reservation_says_why);
    return native_finish();
}
