/* dispatch.h: requests to workers and back.
 *
 * Thread: loop, but for ru_dispatch_init().
 */
#ifndef RU_DISPATCH_H
#define RU_DISPATCH_H

#include <stdbool.h>
#include <stdint.h>

struct ru_engine;

/* Set up the lanes and lend workers their blocks. */
void ru_dispatch_init(struct ru_engine *engine);
/* How long a request may wait for a worker; 0: as long as it takes. */
void ru_dispatch_set_age(struct ru_engine *engine, uint32_t age_max_ms);
/* Take back what workers returned, and replace the blocks they used. */
void ru_dispatch_collect(struct ru_engine *engine);
/* Hand queued contexts to idle workers. */
void ru_dispatch_run(struct ru_engine *engine);
/* Whether a worker has returned something that is not collected yet. */
bool ru_dispatch_has_returns(const struct ru_engine *engine);
/* How long queued work may wait for a running batch; UINT64_MAX when nothing waits. */
uint64_t ru_dispatch_wait_ns(const struct ru_engine *engine);

#endif
