/* commands.c: in place of the native commands and the store's views: the simulated node has none, and
 * none is called. */
#include "commands/command.h"

#include "life.h"

const struct ru_command *ru_command_find(uint32_t number)
{
    (void)number;
    return NULL;
}

static int commands_called(void)
{
    sim_fail("a native command runs", 0);
    return -1;
}

int ru_command_execute(const struct ru_command *command, const struct ru_command_ground *ground,
                       const struct ru_command_request *request, struct ru_command_reply *reply)
{
    (void)command, (void)ground, (void)request, (void)reply;
    return commands_called();
}

int ru_command_settle(struct ru_store *store, const struct ru_command_request *request,
                      struct ru_command_reply *reply, uint8_t *scratch)
{
    (void)store, (void)request, (void)reply, (void)scratch;
    return commands_called();
}

int ru_view_open(struct ru_store *store, uint32_t kind, struct ru_view **view)
{
    (void)store, (void)kind, (void)view;
    return commands_called();
}

void ru_view_close(struct ru_view *view)
{
    (void)view; /* there is none */
}

int ru_view_begin(struct ru_view *view)
{
    (void)view;
    return commands_called();
}

void ru_view_end(struct ru_view *view)
{
    (void)view;
    (void)commands_called();
}

int ru_view_commit(struct ru_view *view)
{
    (void)view;
    return commands_called();
}

uint32_t ru_view_mark(struct ru_view *view)
{
    (void)view;
    return (uint32_t)commands_called();
}

void ru_view_undo(struct ru_view *view, uint32_t mark)
{
    (void)view, (void)mark;
    (void)commands_called();
}

int ru_store_require(struct ru_store *store)
{
    (void)store;
    return commands_called();
}
