/* raida.h: the addresses of the other RAIDA, whose failed checks do not count: anybody can make one
 * of them ask for a wrong ticket, by `fix`.
 *
 * Thread: one publisher; readers any. Every word that both touch is atomic.
 */
#ifndef RU_RAIDA_H
#define RU_RAIDA_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

#define RU_RAIDA_WORDS 2 /* of an IPv6 address; IPv4 is mapped into IPv6 */

struct ru_raida {
    uint64_t sequence; /* odd while being written */
    uint32_t count;
    uint32_t missed; /* an address was asked for and is not there */
    uint64_t words[RU_RAIDA_ADDRESSES_MAX][RU_RAIDA_WORDS];
};

/* Thread: one publisher at a time. addresses: 16 bytes each; those past RU_RAIDA_ADDRESSES_MAX are
 * dropped. */
void ru_raida_publish(struct ru_raida *raida, const uint8_t *addresses, uint32_t count);
/* Whether the sender has the address of a RAIDA. peer: RU_PEER_SIZE bytes of a sockaddr. */
bool ru_raida_has(struct ru_raida *raida, const uint8_t *peer);
/* Whether another address was asked for since the last call: names may have new ones. */
bool ru_raida_missed(struct ru_raida *raida);

#endif
