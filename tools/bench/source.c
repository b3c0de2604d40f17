/* source.c: what the look-up in the table of sources costs per datagram, by number of senders.
 *
 * Prints the median of several rounds, and the bound; the exit status says whether all were kept. A
 * quarter of the senders have failed checks, so that the table is as full as a flood makes it; each
 * datagram of types 1 and 2 names another coin. Time is the processor's, so that other processes count for less.
 * usage: bench_source
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "memory/arena.h"
#include "clock.h"
#include "guard/guard.h"

#define LOOKS 4000000U
#define ROUNDS 9U

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sender `number` of `count`, in an order that no cache foresees; where the kernel would write it. */
static const uint8_t *peer_of(uint32_t number, uint32_t count)
{
    static struct sockaddr_in6 room; /* as large as a slot's */
    struct sockaddr_in *peer = (struct sockaddr_in *)(void *)&room;
    peer->sin_family = AF_INET;
    peer->sin_addr.s_addr = htonl(0x0A000000U + (uint32_t)(number * 2654435761ULL % count));
    return (const uint8_t *)&room;
}

/* A header of that type under another key coin each time. */
static const uint8_t *header_of(uint8_t encryption, uint32_t number)
{
    static uint8_t header[RU_HEADER_LARGE];
    header[RU_REQUEST_ENCRYPTION_AT] = encryption;
    memcpy(header + RU_REQUEST_SMALL_COIN_AT + RU_COIN_SERIAL_AT, &number, sizeof(number));
    return header;
}

static double measure(struct ru_guard *guard, uint32_t count, uint8_t encryption)
{
    double spent_ns[ROUNDS];
    uint64_t now_ns = ru_now_ns();
    uint32_t limited = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t since_ns = ru_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (uint32_t i = 0; i < LOOKS; i++) {
            const uint8_t *header = header_of(encryption, i);
            limited +=
                ru_guard_asks(guard, header) &&
                ru_guard_look(guard, peer_of(i, count), header, RU_UDP, now_ns) != RU_GUARD_NONE;
        }
        spent_ns[round] = (double)(ru_clock_ns(CLOCK_THREAD_CPUTIME_ID) - since_ns) / LOOKS;
    }
    qsort(spent_ns, ROUNDS, sizeof(spent_ns[0]), compare);
    if (limited == UINT32_MAX) /* so that the look-ups are not optimised away */
        abort();
    return spent_ns[ROUNDS / 2];
}

static int run(uint32_t count, uint8_t encryption, double most_ns)
{
    static struct ru_guard guard;
    const struct ru_checks settings = {.burst = 20, .per_min = 60, .coin_per_s = 10};
    memset(&guard, 0, sizeof(guard));
    if (ru_guard_init(&guard, &settings) != 0)
        abort();
    for (uint32_t i = 0; i < count; i += 4)
        (void)ru_guard_fail(&guard, peer_of(i, count), header_of(encryption, i), RU_UDP,
                            ru_now_ns());
    double median_ns = measure(&guard, count, encryption);
    bool kept = median_ns <= most_ns;
    printf("%7u senders, encryption type %u: %5.1f ns a datagram (at most %.0f) %s\n", count,
           encryption, median_ns, most_ns, kept ? "ok" : "NO");
    ru_guard_destroy(&guard);
    return kept ? 0 : 1;
}

int main(void)
{
    int missed = 0;
    missed += run(1, 4, 15);
    missed += run(1, 1, 15);
    missed += run(1000000, 4, 40);
    missed += run(1000000, 1, 40);
    return missed > 0;
}
