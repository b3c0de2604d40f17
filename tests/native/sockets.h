/* sockets.h: sockets on loopback, for the native tests that meet a real network. */
#ifndef RU_TESTS_SOCKETS_H
#define RU_TESTS_SOCKETS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

#define PATIENCE_MS 10000 /* for what has to come */

/* A socket on a port of the kernel's choice. */
static inline int bound(int type, struct sockaddr_in *address)
{
    socklen_t size = sizeof(*address);
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (const struct sockaddr *)address, size) != 0 ||
        getsockname(fd, (struct sockaddr *)address, &size) != 0)
        abort();
    return fd;
}

/* A blocking socket that gives up after a while. */
static inline int client_of(int type, const struct sockaddr_in *address)
{
    const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0)
        abort();
    return fd;
}

#endif
