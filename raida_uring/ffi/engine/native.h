/* native.h: requests answered without the interpreter, by commands of commands/command.h.
 *
 * Three kinds of worker run them, all by the same steps as a worker of Python handlers: the native
 * lane's, the native writing lane's, and the I/O thread itself. The last one executes light requests,
 * RU_LIGHT_MAX of them in a lap at most, each bounded by its command's light_max, so that a lone
 * request needs no hand-over, and a vote never waits for long. What is beyond that bound, and what
 * would have to wait for a writer, goes to the native lane.
 */
#ifndef RU_NATIVE_H
#define RU_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "commands/command.h"
#include "engine/lane.h"
#include "ru.h"

struct ru_engine;

enum ru_native_kind {
    RU_NATIVE_READS,
    RU_NATIVE_WRITES,
    RU_NATIVE_LIGHT, /* of the I/O thread: it must not wait */
};

/* What a native worker has beside the others. */
struct ru_native {
    enum ru_native_kind kind;
    struct ru_view *view; /* NULL: the node has no store */
    struct ru_view *keys; /* of the coins that requests are sealed with; often `view` */
    struct ru_facts facts;
    uint32_t postponed_count;    /* LIGHT: tokens of the batch that have to be executed elsewhere */
    uint64_t postponed[RU_BATCH_MAX];
    uint8_t *scratch;            /* RU_COMMAND_SCRATCH */
    struct ru_command_reply kept[RU_BATCH_MAX]; /* WRITES: until the batch is durable */
    uint8_t replies[RU_BATCH_MAX * RU_NATIVE_REPLY_MAX];
};

/* Thread: loop. The lane of a context whose header asks for `lane`. */
enum ru_lane_number ru_native_choose(const struct ru_engine *engine, uint32_t context,
                                     enum ru_lane_number lane);
/* Thread: the worker's. For worker `index`; *native is NULL if it runs handlers. 0 or -errno. */
int ru_native_open(struct ru_engine *engine, uint32_t index, struct ru_native **native);
void ru_native_close(struct ru_native *native);
/* Thread: loop. Execute and answer what has been handed to the I/O thread's worker. Returns the tokens
 * of those that it could not answer without waiting; `count`: how many. Valid until the next call. */
const uint64_t *ru_native_serve_light(struct ru_worker *worker, uint32_t *count);

#endif
