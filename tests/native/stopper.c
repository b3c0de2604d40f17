/* stopper.c: stop one thread of another process at a chosen instruction, then kill the process.
 *
 * Built as a library for tests/support/stopper.py, so that nothing of this is in the product. The
 * other threads go on meanwhile: whoever reads sees what it sees while the one stands there. The
 * process must be a child of the caller's, or one that it may trace. Thread: any; the process is traced
 * by the calling thread until the call returns, when it is dead.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 256
#define LOOK_US 200
#define PATH_SIZE 64

struct stopper_stop {
    uint64_t address;     /* where a thread is stopped first ... */
    uint32_t returning;   /* ... 1: then where that function returns to ... */
    uint32_t steps;       /* ... then after so many more instructions */
    uint32_t patience_ms; /* to come there */
    uint32_t hold_ms;     /* how long it stands there */
};

__attribute__((visibility("default"))) int stopper_supported(void);
__attribute__((visibility("default"))) int stopper_kill(int pid, const struct stopper_stop *stop,
                                                        uint64_t *at);

#if defined(__x86_64__)

#define TRAP_SIZE 1U
static const uint8_t trap_bytes[TRAP_SIZE] = {0xcc};

struct stopper {
    pid_t pid;
    pid_t threads[THREADS_MAX];
    uint32_t count;
    int memory; /* descriptor of the process's */
    uint64_t trap;
    uint8_t original[TRAP_SIZE];
    uint64_t end_ms;
};

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool is_late(const struct stopper *stopper)
{
    return now_ms() > stopper->end_ms;
}

/* ---- threads ---- */

/* io_uring's own cannot be traced. */
static bool is_kernels(const struct stopper *stopper, pid_t thread)
{
    char path[PATH_SIZE];
    char name[32] = "";
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", stopper->pid, thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, name, sizeof(name) - 1);
    if (fd >= 0)
        (void)close(fd);
    return size <= 0 || strncmp(name, "iou-", 4) == 0;
}

static bool is_seized(const struct stopper *stopper, pid_t thread)
{
    for (uint32_t i = 0; i < stopper->count; i++)
        if (stopper->threads[i] == thread)
            return true;
    return false;
}

/* Trace those threads that are not traced yet. Returns how many, or -errno. */
static int seize_some(struct stopper *stopper)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "/proc/%d/task", stopper->pid);
    DIR *entries = opendir(path);
    const struct dirent *entry;
    int found = 0;
    if (!entries)
        return -errno;
    while (found >= 0 && (entry = readdir(entries)) != NULL) {
        pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
        if (thread <= 0 || is_seized(stopper, thread) || is_kernels(stopper, thread))
            continue;
        if (stopper->count == THREADS_MAX)
            found = -E2BIG;
        else if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0)
            found = errno == ESRCH ? found : -errno; /* it has ended */
        else {
            stopper->threads[stopper->count++] = thread;
            found++;
        }
    }
    (void)closedir(entries);
    return found;
}

static int seize_all(struct stopper *stopper)
{
    int found;
    do {
        found = seize_some(stopper);
    } while (found > 0);
    return found < 0 ? found : 0;
}

/* The leader's end is left to whoever has started the process. */
static void kill_all(const struct stopper *stopper)
{
    (void)kill(stopper->pid, SIGKILL);
    for (uint32_t i = 0; i < stopper->count; i++) {
        int status = 0;
        while (stopper->threads[i] != stopper->pid &&
               waitpid(stopper->threads[i], &status, __WALL) == stopper->threads[i] &&
               WIFSTOPPED(status))
            continue;
    }
}

/* ---- traps ---- */

static bool trap_set(struct stopper *stopper, uint64_t address)
{
    const off_t at = (off_t)address;
    stopper->trap = address;
    return pread(stopper->memory, stopper->original, TRAP_SIZE, at) == TRAP_SIZE &&
           pwrite(stopper->memory, trap_bytes, TRAP_SIZE, at) == TRAP_SIZE;
}

static void trap_clear(const struct stopper *stopper)
{
    (void)!pwrite(stopper->memory, stopper->original, TRAP_SIZE, (off_t)stopper->trap);
}

static uint64_t position_of(pid_t thread)
{
    struct user_regs_struct registers = {0};
    (void)ptrace(PTRACE_GETREGS, thread, NULL, &registers);
    return registers.rip;
}

/* Have a thread that the trap has stopped execute what was there. Returns its stack's top. */
static uint64_t trap_leave(pid_t thread)
{
    struct user_regs_struct registers = {0};
    (void)ptrace(PTRACE_GETREGS, thread, NULL, &registers);
    registers.rip -= TRAP_SIZE;
    (void)ptrace(PTRACE_SETREGS, thread, NULL, &registers);
    return registers.rsp;
}

/* The signal that has stopped a thread; 0: none has, or it has ended. */
static int stopped_by(pid_t thread)
{
    siginfo_t info = {0};
    if (waitid(P_PID, (id_t)thread, &info, WSTOPPED | WNOHANG | __WALL) != 0 || info.si_pid == 0)
        return 0;
    return info.si_status;
}

/* The thread that the trap stops, or 0 when it is late. only: no other one; 0: any. */
static pid_t trap_await(const struct stopper *stopper, pid_t only)
{
    while (!is_late(stopper)) {
        for (uint32_t i = 0; i < stopper->count; i++) {
            pid_t thread = stopper->threads[i];
            int signal = stopped_by(thread);
            if (signal == 0)
                continue;
            if (signal == SIGTRAP && position_of(thread) == stopper->trap + TRAP_SIZE) {
                if (only == 0 || thread == only)
                    return thread;
                continue; /* it waits there for the end */
            }
            if (signal == SIGTRAP) /* one that is cleared meanwhile */
                (void)trap_leave(thread);
            (void)ptrace(PTRACE_CONT, thread, NULL,
                         signal == SIGTRAP || signal > 0xff ? 0 : signal);
        }
        (void)usleep(LOOK_US);
    }
    return 0;
}

static bool step(const struct stopper *stopper, pid_t thread, uint32_t steps)
{
    int signal = 0;
    for (; steps > 0; steps--) {
        if (ptrace(PTRACE_SINGLESTEP, thread, NULL, signal) != 0)
            return false;
        while ((signal = stopped_by(thread)) == 0) { /* it may wait for another thread */
            if (is_late(stopper))
                return false;
            (void)sched_yield();
        }
        signal = signal == SIGTRAP || signal > 0xff ? 0 : signal;
    }
    return true;
}

/* Returns whether a thread stands where `stop` says. */
static bool come(struct stopper *stopper, const struct stopper_stop *stop, uint64_t *at)
{
    uint64_t return_to = 0;
    if (!trap_set(stopper, stop->address))
        return false;
    pid_t thread = trap_await(stopper, 0);
    if (thread == 0)
        return false;
    trap_clear(stopper);
    uint64_t top = trap_leave(thread);
    if (stop->returning) {
        if (pread(stopper->memory, &return_to, sizeof(return_to), (off_t)top) !=
                (ssize_t)sizeof(return_to) ||
            !trap_set(stopper, return_to) || ptrace(PTRACE_CONT, thread, NULL, NULL) != 0 ||
            trap_await(stopper, thread) != thread)
            return false;
        trap_clear(stopper);
        (void)trap_leave(thread);
    }
    bool arrived = step(stopper, thread, stop->steps);
    *at = arrived ? position_of(thread) : 0;
    return arrived;
}

int stopper_supported(void)
{
    return 1;
}

/* Kill process `pid` where `stop` says or, where it does not come in time, anywhere. Returns 1 or 0,
 * with `at` the instruction that would have been the next; or -errno: it cannot be traced, and lives. */
int stopper_kill(int pid, const struct stopper_stop *stop, uint64_t *at)
{
    char path[PATH_SIZE];
    struct stopper stopper = {.pid = pid, .end_ms = now_ms() + stop->patience_ms};
    (void)snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    *at = 0;
    int rc = seize_all(&stopper);
    stopper.memory = rc == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (rc == 0 && stopper.memory < 0)
        rc = -errno;
    if (rc != 0 && stopper.count == 0)
        return rc;
    if (rc == 0)
        rc = come(&stopper, stop, at);
    if (rc == 1)
        (void)usleep(stop->hold_ms * 1000);
    kill_all(&stopper);
    if (stopper.memory >= 0)
        (void)close(stopper.memory);
    return rc;
}

#else

int stopper_supported(void)
{
    return 0;
}

int stopper_kill(int pid, const struct stopper_stop *stop, uint64_t *at)
{
    (void)pid, (void)stop, (void)at;
    return -ENOSYS;
}

#endif
