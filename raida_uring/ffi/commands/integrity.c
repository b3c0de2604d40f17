/* integrity.c: get_merkle_branch, get_all_roots. Source: docs/wire.md, "Integrity group". */
#include <string.h>

#include "commands/run.h"

enum branch_layout {
    BRANCH_DENOMINATION_AT = 0, /* signed */
    BRANCH_LEVEL_AT = 1,
    BRANCH_POSITION_AT = 5,
    BRANCH_SIZE = 9,
};

/* One node of a tree; despite its name never a branch. */
int ru_integrity_get_merkle_branch(const struct ru_command_ground *ground,
                                   const struct ru_command_request *request,
                                   struct ru_command_reply *reply)
{
    const struct ru_facts *facts = ground->facts;
    const uint8_t *payload = request->payload;
    if (request->size != BRANCH_SIZE)
        return ru_run_answer(reply, RU_STATUS_PACKET_LENGTH);
    const struct ru_tree_place place = {
        .tree = (int8_t)payload[BRANCH_DENOMINATION_AT] - RU_DENOMINATION_MIN,
        .level = ru_get_u32(payload + BRANCH_LEVEL_AT),
        .position = ru_get_u32(payload + BRANCH_POSITION_AT),
    };
    if (!facts->roots || !facts->trees ||
        !ru_trees_node(facts->trees, facts->roots, &place, ground->scratch))
        return ru_run_answer(reply, RU_STATUS_FILE_NOT_EXIST);
    reply->size = RU_ROOT_SIZE;
    return 0;
}

int ru_integrity_get_all_roots(const struct ru_command_ground *ground,
                               const struct ru_command_request *request,
                               struct ru_command_reply *reply)
{
    if (request->size != RU_ROOTS_SIZE)
        return ru_run_answer(reply, RU_STATUS_PACKET_LENGTH);
    if (ground->facts->roots)
        ru_roots_read(ground->facts->roots, ground->scratch);
    else
        memset(ground->scratch, 0, RU_ROOTS_SIZE);
    reply->size = RU_ROOTS_SIZE;
    return 0;
}

_Static_assert((int)RU_ROOT_SIZE <= (int)RU_COMMAND_LIGHT_SCRATCH, "node");
_Static_assert((int)RU_ROOTS_SIZE <= (int)RU_COMMAND_SCRATCH, "roots");
_Static_assert((int)RU_TREE_LEAVES == (int)RU_STORE_DEN_PAGES, "a leaf for each page");
