/* raida.c: the addresses of the other RAIDA. See raida.h. */
#include "guard/raida.h"

#include <netinet/in.h>
#include <string.h>

#include "check.h"
#include "number.h"

void ru_raida_publish(struct ru_raida *raida, const uint8_t *addresses, uint32_t count)
{
    uint64_t sequence = raida->sequence;
    RU_CHECK((sequence & 1) == 0);
    count = ru_number_min32(count, RU_RAIDA_ADDRESSES_MAX);
    __atomic_store_n(&raida->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < count * RU_RAIDA_WORDS; i++) {
        uint64_t word;
        memcpy(&word, addresses + (size_t)i * sizeof(word), sizeof(word));
        __atomic_store_n(&raida->words[0][0] + i, word, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&raida->count, count, __ATOMIC_RELAXED);
    __atomic_store_n(&raida->sequence, sequence + 2, __ATOMIC_RELEASE);
}

/* The sender's address as IPv6. */
static void raida_address(const uint8_t *peer, uint64_t words[RU_RAIDA_WORDS])
{
    struct sockaddr_in6 as6;
    struct sockaddr_in as4;
    struct in6_addr address = {.s6_addr = {[10] = 0xFF, [11] = 0xFF}};
    memcpy(&as6, peer, sizeof(as6));
    memcpy(&as4, peer, sizeof(as4));
    if (as4.sin_family == AF_INET)
        address.s6_addr32[3] = as4.sin_addr.s_addr;
    else
        address = as6.sin6_addr;
    memcpy(words, &address, sizeof(address));
}

bool ru_raida_has(struct ru_raida *raida, const uint8_t *peer)
{
    uint64_t address[RU_RAIDA_WORDS], sequence;
    bool found;
    raida_address(peer, address);
    do {
        found = false;
        sequence = __atomic_load_n(&raida->sequence, __ATOMIC_ACQUIRE);
        uint32_t count = __atomic_load_n(&raida->count, __ATOMIC_RELAXED);
        for (uint32_t i = 0; i < ru_number_min32(count, RU_RAIDA_ADDRESSES_MAX); i++)
            found |= __atomic_load_n(&raida->words[i][0], __ATOMIC_RELAXED) == address[0] &&
                     __atomic_load_n(&raida->words[i][1], __ATOMIC_RELAXED) == address[1];
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    } while ((sequence & 1) != 0 ||
             __atomic_load_n(&raida->sequence, __ATOMIC_RELAXED) != sequence);
    if (!found)
        __atomic_store_n(&raida->missed, 1, __ATOMIC_RELAXED);
    return found;
}

bool ru_raida_missed(struct ru_raida *raida)
{
    return __atomic_exchange_n(&raida->missed, 0, __ATOMIC_RELAXED) != 0;
}
