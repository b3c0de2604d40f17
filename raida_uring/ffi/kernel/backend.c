/* backend.c: which backend serves.
 *
 * Why: the engine and the probe must come to the same answer, so both get it here, by trying. A
 * ring is tried as far as its third system call before anything is armed on it, so that falling
 * back starts from nothing.
 * Owner: the thread that opens. Memory: the backend's own.
 */
#include "kernel/backend.h"

#include <stdio.h>
#include <string.h>

int ru_backend_open(struct ru_backend **backend, const struct ru_backend_setup *setup,
                    struct ru_backend_refusal *refusal)
{
    uint32_t choice = setup->config->backend;
    *refusal = (struct ru_backend_refusal){.error = 0};
    if (choice != RU_BACKEND_EPOLL) {
        int result = ru_backend_uring.open(backend, setup);
        if (result == 0)
            return 0;
        memcpy(refusal->fault, setup->fault, sizeof(refusal->fault));
        refusal->error = -result;
        if (choice == RU_BACKEND_URING)
            return result;
        setup->fault[0] = '\0';
    }
    return ru_backend_epoll.open(backend, setup);
}
