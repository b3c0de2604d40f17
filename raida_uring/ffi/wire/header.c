/* header.c: the header decisions. */
#include "wire/header.h"

#include <stdbool.h>

static bool header_encryption_known(uint8_t type)
{
    return type <= RU_SMALL_TYPE_MAX || type == 4 || type == 5;
}

enum ru_status ru_header_decide(const struct ru_identity *identity, const uint8_t *bytes,
                                struct ru_header *header)
{
    header->size = ru_header_size(bytes);
    header->encryption = bytes[RU_REQUEST_ENCRYPTION_AT];
    header->body_size =
        ru_get_u16(bytes + (header->size == RU_HEADER_SMALL ? RU_REQUEST_SMALL_BODY_SIZE_AT
                                                            : RU_REQUEST_LARGE_BODY_SIZE_AT));
    header->lane = RU_CLASS_NONE;
    if (bytes[RU_REQUEST_VERSION_AT] != RU_REQUEST_VERSION)
        return RU_STATUS_ROUTING;
    if (bytes[RU_REQUEST_SPLIT_AT] != 0)
        return RU_STATUS_SPLIT_ID;
    if (bytes[RU_REQUEST_RAIDA_AT] != identity->raida_id)
        return RU_STATUS_RAIDA_ID;
    /* docs/wire.md requires the group to be checked before the shard. */
    if (bytes[RU_REQUEST_GROUP_AT] >= RU_GROUPS_COUNT)
        return RU_STATUS_COMMAND_GROUP;
    if (bytes[RU_REQUEST_SHARD_AT] >= RU_SHARDS_COUNT)
        return RU_STATUS_SHARD_ID;
    header->lane = __atomic_load_n(&identity->classes[ru_header_command(bytes)], __ATOMIC_RELAXED);
    if (header->lane == RU_CLASS_NONE)
        return RU_STATUS_COMMAND;
    if (ru_get_u16(bytes + RU_REQUEST_COIN_ID_AT) != identity->coin_id)
        return RU_STATUS_COIN_ID;
    if (!header_encryption_known(header->encryption))
        return RU_STATUS_ENCRYPTION_CODE;
    return RU_STATUS_OK;
}
