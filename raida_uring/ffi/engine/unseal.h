/* unseal.h: the encrypted requests of a batch, for whoever executes them in C. ru.h has what Python
 * calls. Thread: the worker's.
 */
#ifndef RU_UNSEAL_H
#define RU_UNSEAL_H

#include <stdint.h>

struct ru_view;
struct ru_worker;

/* ru_worker_unseal_at() for the request with that number in the batch. */
int ru_unseal_entry(struct ru_worker *worker, uint32_t number, struct ru_view *view);

#endif
