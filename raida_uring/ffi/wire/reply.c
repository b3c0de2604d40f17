/* reply.c: reply headers written. */
#include "wire/reply.h"

#include <string.h>

enum ru_scope ru_reply_scope(enum ru_status status)
{
    if (status == RU_STATUS_COIN_ID)
        return RU_SCOPE_GROUP;
    if (status == RU_STATUS_ENCRYPTION_CODE)
        return RU_SCOPE_TYPE;
    return RU_SCOPE_NOTHING;
}

uint8_t ru_reply_header_size(const struct ru_reply *reply)
{
    if (reply->scope == RU_SCOPE_TYPE)
        return RU_HEADER_LARGE;
    return reply->scope == RU_SCOPE_ALL ? ru_header_size(reply->request) : RU_HEADER_SMALL;
}

static void reply_put_u24(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 16);
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)value;
}

static void reply_put_u32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    reply_put_u24(at + 1, value);
}

static void reply_write_large(const struct ru_reply *reply, uint8_t *out)
{
    const uint8_t *request = reply->request;
    reply_put_u32(out + RU_REPLY_LARGE_TIME_AT, reply->execution_us);
    out[RU_REPLY_LARGE_ENCRYPTION_AT] = request[RU_REQUEST_ENCRYPTION_AT];
    memcpy(out + RU_REPLY_LARGE_NONCE_AT, reply->nonce, RU_REPLY_NONCE_SIZE);
    if (reply->scope != RU_SCOPE_ALL)
        return;
    memcpy(out + RU_REPLY_LARGE_COIN_AT, request + RU_REQUEST_LARGE_COIN_AT, RU_COIN_NAME_SIZE);
    if (request[RU_REQUEST_ENCRYPTION_AT] == 5)
        memcpy(out + RU_REPLY_LARGE_SECOND_COIN_AT, request + RU_REQUEST_LARGE_SECOND_COIN_AT,
               RU_COIN_NAME_SIZE);
    memcpy(out + RU_REPLY_LARGE_ECHO_AT, request + RU_REQUEST_LARGE_ECHO_AT, RU_ECHO_SIZE);
}

uint8_t ru_reply_header_write(const struct ru_reply *reply, uint8_t *out)
{
    uint8_t size = ru_reply_header_size(reply);
    memset(out, 0, size);
    out[RU_REPLY_RAIDA_AT] = reply->raida_id;
    out[RU_REPLY_STATUS_AT] = reply->status;
    if (reply->scope != RU_SCOPE_NOTHING)
        out[RU_REPLY_GROUP_AT] = reply->request[RU_REQUEST_GROUP_AT];
    reply_put_u24(out + RU_REPLY_BODY_SIZE_AT, reply->body_size);
    if (size == RU_HEADER_LARGE) {
        reply_write_large(reply, out);
        return size;
    }
    out[RU_REPLY_SMALL_FRAMES_AT + 1] = 1; /* the low byte of two */
    if (reply->scope == RU_SCOPE_ALL)
        memcpy(out + RU_REPLY_SMALL_ECHO_AT, reply->request + RU_REQUEST_SMALL_ECHO_AT,
               RU_ECHO_SIZE);
    reply_put_u32(out + RU_REPLY_SMALL_TIME_AT, reply->execution_us);
    if (reply->challenge)
        memcpy(out + RU_REPLY_SMALL_CHALLENGE_AT, reply->challenge, RU_CHALLENGE_SIZE);
    return size;
}
