/* probe.h: a trial of a kernel feature, and what it stands on. For probe.c and probe_trials.c. */
#ifndef RU_PROBE_H
#define RU_PROBE_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PROBE_OPCODES 256
#define PROBE_SOCKETS_MAX 4
#define PROBE_PAGE 4096

/* What a trial stands on, and gives to later ones. */
#define HAVE_RING 1U
#define HAVE_REGISTER 2U
#define HAVE_ENTER 4U
#define HAVE_ALL (HAVE_RING | HAVE_REGISTER | HAVE_ENTER)

struct probe {
    unsigned have;
    unsigned features;
    unsigned ring_flags; /* of the rings that operations are tried on */
    bool opcodes[PROBE_OPCODES];
    uint8_t *buffer_ring; /* a page each */
    uint8_t *buffers;
    /* of the running trial */
    struct io_uring ring;
    bool ring_open;
    int sockets[PROBE_SOCKETS_MAX];
    uint32_t sockets_count;
};

struct probe_address {
    struct sockaddr_un name;
    socklen_t size;
};

/* A socket with a name of the kernel's choice, which goes to *address. */
/* One feature, tried by using it. run: 0, or -errno. */
struct probe_trial {
    const char *name; /* kernel.py's key */
    int (*run)(struct probe *probe, uint32_t argument);
    uint32_t argument;
    unsigned needs;
    unsigned gives;
    bool on_ring; /* wants one open */
};

/* In the order that they are tried in. */
extern const struct probe_trial ru_probe_trials[];
extern const uint32_t ru_probe_trials_count;

/* A ring with those flags, closed with the trial. 0 or -errno. */
int ru_probe_trials_ring(struct probe *probe, unsigned flags);
/* A socket bound to `address`, an eventfd: closed with the trial. A descriptor or -errno. */
int ru_probe_trials_bound(struct probe *probe, int type, struct probe_address *address);
int ru_probe_trials_eventfd(struct probe *probe);

#endif
