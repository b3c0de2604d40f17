/* probe.c: which kernel features exist, found by using each one.
 *
 * Why: version numbers and op-code tables do not say what a distribution backported, what a sandbox
 * denies or what a modifier needs. The trials are in probe_trials.c; each cleans up after itself.
 * Owner: any thread; all state is on the caller's stack, except two pages mapped for the run.
 */
#include "ru.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernel/backend.h"
#include "kernel/probe.h"

#define PROBE_MEMORY_TRIES 500
#define PROBE_MEMORY_WAIT_NS 2000000

static void probe_close(struct probe *probe)
{
    if (probe->ring_open)
        io_uring_queue_exit(&probe->ring);
    probe->ring_open = false;
    while (probe->sockets_count > 0)
        (void)close(probe->sockets[--probe->sockets_count]);
}

static int probe_once(struct probe *probe, const struct probe_trial *trial)
{
    int result = trial->on_ring ? ru_probe_trials_ring(probe, probe->ring_flags) : 0;
    if (result == 0)
        result = trial->run(probe, trial->argument);
    probe_close(probe);
    return result;
}

/* The kernel returns the locked memory of a closed ring some milliseconds later, so a trial may
 * fail because of the one before it. Only a lasting ENOMEM is a property of the machine. */
static int probe_try(struct probe *probe, const struct probe_trial *trial)
{
    const struct timespec wait = {.tv_nsec = PROBE_MEMORY_WAIT_NS};
    if (trial->needs & ~probe->have)
        return RU_PROBE_UNTRIED;
    int result = probe_once(probe, trial);
    for (uint32_t i = 0; result == -ENOMEM && i < PROBE_MEMORY_TRIES; i++) {
        (void)nanosleep(&wait, NULL);
        result = probe_once(probe, trial);
    }
    if (result == 0)
        probe->have |= trial->gives;
    return result;
}

uint32_t ru_probe_count(void)
{
    return ru_probe_trials_count;
}

const char *ru_probe_name(uint32_t index)
{
    return index < ru_probe_trials_count ? ru_probe_trials[index].name : NULL;
}

int ru_probe_run(int32_t *results)
{
    struct probe probe;
    memset(&probe, 0, sizeof(probe));
    void *pages = mmap(NULL, (size_t)2 * PROBE_PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return -errno;
    probe.buffer_ring = pages;
    probe.buffers = probe.buffer_ring + PROBE_PAGE;
    for (uint32_t i = 0; i < ru_probe_trials_count; i++)
        results[i] = probe_try(&probe, &ru_probe_trials[i]);
    (void)munmap(pages, (size_t)2 * PROBE_PAGE);
    return 0;
}

/* ---- the node's backend ---- */

static int probe_open(const struct ru_config *config, struct ru_probe_backend *report,
                      struct probe *probe)
{
    struct probe_address address;
    struct ru_config trial = *config;
    struct ru_backend *backend = NULL;
    struct ru_backend_refusal refusal;
    const struct ru_arena arena = {.slots = config->udp_contexts + config->udp_reserve};
    int udp = ru_probe_trials_bound(probe, SOCK_DGRAM, &address);
    int tcp = ru_probe_trials_bound(probe, SOCK_STREAM, &address);
    const struct ru_backend_setup setup = {.config = &trial,
                                           .arena = &arena,
                                           .wake_fd = ru_probe_trials_eventfd(probe),
                                           .fault = report->fault};
    if (config->backend != RU_BACKEND_EPOLL)
        report->locked_bytes_max = ru_backend_uring_locked_bytes(config, arena.slots);
    int result = udp < 0 ? udp : tcp < 0 ? tcp : setup.wake_fd;
    if (result < 0)
        return ru_backend_step(&setup, "making sockets", result);
    trial.listeners_count = 1;
    trial.listeners[0] = (struct ru_listener_config){.udp_fd = udp, .tcp_fd = tcp};
    result = ru_backend_open(&backend, &setup, &refusal);
    memcpy(report->refusal, refusal.fault, sizeof(report->refusal));
    report->refusal_error = refusal.error;
    if (result != 0)
        return result;
    report->is_ring = backend->ops == &ru_backend_uring;
    (void)snprintf(report->tier, sizeof(report->tier), "%s", backend->tier);
    backend->ops->close(backend);
    return 0;
}

int ru_probe_backend(const struct ru_config *config, struct ru_probe_backend *report)
{
    struct probe probe;
    memset(&probe, 0, sizeof(probe));
    memset(report, 0, sizeof(*report));
    int result = probe_open(config, report, &probe);
    probe_close(&probe);
    return result;
}
