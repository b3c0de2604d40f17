/* ground.h: what the worker of a native lane executes commands on: views of the coins, facts about the
 * node, and memory of its own.
 *
 * Owner: the worker's thread.
 */
#ifndef RU_GROUND_H
#define RU_GROUND_H

#include <stdint.h>

#include "commands/command.h"
#include "limits.h"

struct ru_engine;

enum ru_ground_kind {
    RU_GROUND_READS,
    RU_GROUND_WRITES,
    RU_GROUND_LIGHT, /* of the I/O thread: it must not wait */
};

struct ru_ground {
    enum ru_ground_kind kind;
    struct ru_view *view; /* NULL: the node has no store */
    struct ru_view *keys; /* of the coins that requests are sealed with; often `view` */
    struct ru_facts facts;
    uint32_t postponed_count; /* LIGHT: tokens of the batch that have to be executed elsewhere */
    uint64_t postponed[RU_BATCH_MAX];
    uint8_t *scratch;                           /* RU_COMMAND_SCRATCH */
    struct ru_command_reply kept[RU_BATCH_MAX]; /* WRITES: until the batch is durable */
    uint8_t replies[RU_BATCH_MAX * RU_NATIVE_REPLY_MAX];
};

/* For worker `index`; *ground is NULL if it runs handlers. Reading views have begun. 0 or -errno. */
int ru_ground_open(struct ru_engine *engine, uint32_t index, struct ru_ground **ground);
void ru_ground_close(struct ru_ground *ground);
/* Thread: any. The RU_STATISTICS numbers that show_stats tells. */
void ru_ground_statistics(struct ru_engine *engine, uint64_t *values);

#endif
