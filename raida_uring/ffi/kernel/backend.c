/* backend.c: the choice of the backend.
 *
 * Why: the engine and the probe must choose the same backend, so both call this function, which
 * decides by trying. A ring is tried up to its third system call before any operation starts on
 * it, so a fallback to epoll has nothing to undo.
 * Owner: the thread that opens the backend. Memory: the backend allocates it.
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

int ru_backend_step(const struct ru_backend_setup *setup, const char *step, int result)
{
    if (result >= 0)
        return 0;
    (void)snprintf(setup->fault, RU_FAULT_TEXT, "%s", step);
    return result;
}
