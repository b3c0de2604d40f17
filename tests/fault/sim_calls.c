/* sim_calls.c: the system calls that the data plane makes besides, over the simulated kernel. */
#include "sim_kernel.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/futex.h>
#include <time.h>
#include <unistd.h>

int __real_close(int fd);
int __real_open(const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *bytes, size_t size);
int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *size, int flags);
int __wrap_close(int fd);
int __wrap_open(const char *path, int flags, ...);
int __wrap_getpeername(int fd, struct sockaddr *peer, socklen_t *size);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_shutdown(int fd, int how);
ssize_t __wrap_write(int fd, const void *bytes, size_t size);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);
long __wrap_syscall(long number, ...);

static int sim_errno(int result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *size, int flags)
{
    (void)peer;
    (void)size;
    (void)flags;
    return sim_errno(sim_accept_from(sim_descriptor(fd)->peer));
}

int __wrap_close(int fd)
{
    if (fd < SIM_FD)
        return __real_close(fd);
    if (sim_descriptor(fd)->kind == SIM_SOCKET)
        sim_closing(fd);
    sim_close_now(fd);
    return 0;
}

int __wrap_open(const char *path, int flags, ...)
{
    if (strcmp(path, "/dev/null") != 0)
        return __real_open(path, flags);
    return sim_errno(sim_allocate(SIM_NULL_DEVICE, 0));
}

int __wrap_getpeername(int fd, struct sockaddr *peer, socklen_t *size)
{
    const struct sim_socket *socket = sim_socket(fd);
    const struct sockaddr_in name = {.sin_family = AF_INET,
                                     .sin_port = (in_port_t)socket->name,
                                     .sin_addr = {.s_addr = htonl(socket->name)}};
    if (socket->reset)
        return sim_errno(-ENOTCONN);
    memcpy(peer, &name, sizeof(name));
    *size = sizeof(name);
    return 0;
}

/* A descriptor for another process; the byte that goes with it is the listener. */
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct cmsghdr *head = CMSG_FIRSTHDR(message);
    int passed;
    (void)flags;
    SIM_CHECK(fd == sim.other && head, "no descriptor, or not the channel", (uint64_t)fd);
    memcpy(&passed, CMSG_DATA(head), sizeof(passed));
    if (sim.other_ended)
        return sim_errno(-EPIPE);
    if (sim.other_room == 0)
        return sim_errno(-EAGAIN);
    if (sim_chance(sim.mood.fails))
        return sim_errno(-ETOOMANYREFS);
    struct sim_socket *socket = sim_socket(passed);
    sim_no_operation_on(passed);
    sim.world.passing(sim.world.self, sim_descriptor(passed)->peer);
    sim.other_room--;
    socket->elsewhere = true;
    socket->holders++;
    return (ssize_t)message->msg_iov->iov_len;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)level;
    (void)value;
    (void)size;
    if (name == SO_LINGER)
        sim_descriptor(fd)->lingers_not = true;
    else if (name == SO_ATTACH_FILTER)
        sim.listening[sim_descriptor(fd)->peer].filtered = true;
    return 0;
}

int __wrap_shutdown(int fd, int how)
{
    if (how == SHUT_WR) {
        struct sim_socket *socket = sim_socket(fd);
        SIM_CHECK(!socket->shut, "ended twice", (uint64_t)fd);
        socket->shut = true;
        return socket->reset ? sim_errno(-ENOTCONN) : 0;
    }
    struct sim_listening *listener = &sim.listening[sim_descriptor(fd)->peer];
    listener->shut = true;
    for (uint32_t i = 0; i < listener->backlog_count; i++)
        sim.sockets[listener->backlog[i]].used = false;
    listener->backlog_count = 0;
    return 0;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t size)
{
    if (fd != sim.wake_fd)
        return __real_write(fd, bytes, size);
    sim.wake = true;
    return (ssize_t)size;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    (void)clock;
    sim_elsewhere();
    uint64_t now_ns = sim.now_ns - sim.behind_ns;
    *now = (struct timespec){.tv_sec = (time_t)(now_ns / 1000000000ULL),
                             .tv_nsec = (long)(now_ns % 1000000000ULL)};
    return 0;
}

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
    (void)flags;
    ru_random_fill(&sim.random, bytes, size);
    return (ssize_t)size;
}

/* Only futexes: a worker that waits lets time pass; who is woken may run at once. */
long __wrap_syscall(long number, ...)
{
    va_list arguments;
    va_start(arguments, number);
    const uint32_t *word = va_arg(arguments, const uint32_t *);
    int operation = va_arg(arguments, int);
    va_end(arguments);
    SIM_CHECK(number == SYS_futex, "system call", (uint64_t)number);
    if (operation == FUTEX_WAIT) {
        sim_pass(1000000ULL * (1 + sim_below(20)));
        return 0;
    }
    for (uint32_t i = 0; i < sim.woken_count; i++)
        if (sim.woken[i] == word)
            return 0;
    SIM_CHECK(sim.woken_count < SIM_WORDS_MAX, "futex words", sim.woken_count);
    sim.woken[sim.woken_count++] = word;
    if (sim_chance(128))
        sim_turn(false);
    return 0;
}

bool sim_futex_woken(const uint32_t *word)
{
    for (uint32_t i = 0; i < sim.woken_count; i++) {
        if (sim.woken[i] != word)
            continue;
        sim.woken[i] = sim.woken[--sim.woken_count];
        return true;
    }
    return false;
}
