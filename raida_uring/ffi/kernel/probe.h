/* probe.h: the trial of a kernel feature and its state. For probe.c and probe_trials.c. */
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

/* What a trial requires, and what its success provides to later ones. */
#define HAVE_RING 1U
#define HAVE_REGISTER 2U
#define HAVE_ENTER 4U
#define HAVE_ALL (HAVE_RING | HAVE_REGISTER | HAVE_ENTER)

struct probe {
    unsigned have;
    unsigned features;
    unsigned ring_flags; /* set-up flags of the rings that operations are tried on */
    bool opcodes[PROBE_OPCODES];
    uint8_t *buffer_ring; /* a page each */
    uint8_t *buffers;
    /* State of the running trial: */
    struct io_uring ring;
    bool ring_open;
    int sockets[PROBE_SOCKETS_MAX];
    uint32_t sockets_count;
};

struct probe_address {
    struct sockaddr_un name;
    socklen_t size;
};

/* One feature, tried by using it. run() returns 0 or -errno. */
struct probe_trial {
    const char *name; /* kernel.py's key */
    int (*run)(struct probe *probe, uint32_t argument);
    uint32_t argument;
    unsigned needs;
    unsigned gives;
    bool on_ring; /* requires an open ring */
};

/* In the order in which they run. */
extern const struct probe_trial ru_probe_trials[];
extern const uint32_t ru_probe_trials_count;

/* Open the trial's ring with those flags; it is closed after the trial. 0 or -errno. */
int ru_probe_trials_ring(struct probe *probe, unsigned flags);
/* A Unix socket bound to a name that the kernel chooses and `address` receives, and an eventfd;
 * both are closed after the trial. A descriptor or -errno. */
int ru_probe_trials_bound(struct probe *probe, int type, struct probe_address *address);
int ru_probe_trials_eventfd(struct probe *probe);

#endif
