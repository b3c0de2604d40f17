/* native.h: requests answered without the interpreter, by commands of commands/command.h.
 *
 * Three kinds of worker run them, all by the same steps as a worker of Python handlers: the native
 * lane's, the native writing lane's, and the I/O thread itself. The last one executes light requests,
 * each bounded by its command's light_max, in a lap RU_LIGHT_MAX of them at most and at most what
 * RU_LIGHT_BUDGET pays for, so that a lone request needs no hand-over, and a vote never waits for
 * long. What is beyond these bounds, and what would have to wait for a writer, goes to the native
 * lane.
 */
#ifndef RU_NATIVE_H
#define RU_NATIVE_H

#include <stdint.h>

struct ru_worker;

/* Thread: loop. Execute and answer what has been handed to the I/O thread's worker. Returns the tokens
 * of those that it could not answer without waiting; `count`: how many. Valid until the next call. */
const uint64_t *ru_native_serve_light(struct ru_worker *worker, uint32_t *count);

/* Thread: worker, of a native lane. Execute and answer the batch that ru_worker_take() has begun.
 * Returns as ru_worker_serve(), which does this for one batch after the other. */
int ru_native_serve_batch(struct ru_worker *worker, uint32_t *failed);

#endif
