/* fast.c: the replies of the I/O thread itself: votes, plain echoes, refusals. */
#include "wire/fast.h"

#include <string.h>

void ru_random_fill(struct ru_random *random, uint8_t *out, size_t size)
{
    for (size_t at = 0; at < size; at += 8) {
        uint64_t z = random->state += 0x9E3779B97F4A7C15ULL; /* splitmix64 */
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
        z ^= z >> 31;
        memcpy(out + at, &z, size - at < 8 ? size - at : 8);
    }
}

void ru_fast_vote(const struct ru_roots *roots, const uint8_t *vote, uint8_t *out)
{
    uint8_t published[RU_ROOTS_SIZE];
    ru_roots_read(roots, published);
    uint8_t equal = memcmp(vote + RU_VOTE_ROOTS_AT, published, RU_ROOTS_SIZE) == 0;
    out[RU_VOTE_REPLY_VERDICT_AT] = equal;
    memmove(out + RU_VOTE_REPLY_NONCE_AT, vote + RU_VOTE_NONCE_AT, RU_VOTE_NONCE_SIZE);
}

uint32_t ru_fast_refuse(struct ru_front *front, enum ru_status status, enum ru_scope scope,
                        const uint8_t *request, uint8_t *out)
{
    uint8_t copy[RU_HEADER_LARGE];
    uint8_t nonce[RU_REPLY_NONCE_SIZE];
    memcpy(copy, request, ru_header_size(request));
    struct ru_reply reply = {.raida_id = front->identity.raida_id,
                             .status = (uint8_t)status,
                             .scope = (uint8_t)scope,
                             .request = copy,
                             .nonce = nonce};
    if (ru_reply_header_size(&reply) == RU_HEADER_LARGE)
        ru_random_fill(&front->random, nonce, sizeof(nonce));
    return ru_reply_header_write(&reply, out);
}

uint32_t ru_fast_echo(const struct ru_front *front, const struct ru_header *header,
                      const uint8_t *request, const uint8_t *body, uint8_t *out)
{
    uint8_t copy[RU_HEADER_SMALL];
    uint8_t challenge[RU_CHALLENGE_SIZE];
    const uint8_t *shown = NULL;
    if (header->lane != RU_CLASS_ECHO || header->encryption != 0)
        return 0;
    if (header->body_size > 0) {
        if (ru_body_check_plain(body, header->body_size, &shown) != RU_STATUS_OK)
            return 0;
        memcpy(challenge, shown, RU_CHALLENGE_SIZE);
    }
    memcpy(copy, request, RU_HEADER_SMALL);
    struct ru_reply reply = {.raida_id = front->identity.raida_id,
                             .status = RU_STATUS_SUCCESS,
                             .scope = RU_SCOPE_ALL,
                             .request = copy,
                             .challenge = shown ? challenge : NULL};
    return ru_reply_header_write(&reply, out);
}
