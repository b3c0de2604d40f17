/* limits.h: sizes fixed at build time, each with its unit and its reason.
 *
 * Operators' settings are in config/, sizes fixed by the protocol in layout.h; this file has those
 * that follow from the layout of memory. The assertions at its end relate them to each other.
 */
#ifndef RU_LIMITS_H
#define RU_LIMITS_H

#include "layout.h"

/* Memory, in bytes unless said otherwise. */
#define RU_CACHE_LINE 64
#define RU_PEER_SIZE 32        /* sockaddr_in6 is 28; a multiple of 8 keeps control data aligned */
#define RU_CONTROL_SIZE 40     /* one in6_pktinfo record: CMSG_SPACE(20) */
#define RU_SLOT_HEAD 16        /* struct ru_slot_head */
#define RU_INLINE_BODY 256     /* a TCP body up to this size needs no block */
#define RU_INLINE_SIZE 352     /* header + inline body + room to align; also the inline reply */
#define RU_TCP_AREA 384        /* one connection: peer, then the inline area */
#define RU_SMALL_BLOCK 2048    /* bodies and replies that do not fit inline */
#define RU_LARGE_BLOCK 66560   /* the longest body (65,535) or reply, and room to align */
#define RU_TCP_BUFFER 2048     /* one provided buffer for TCP receives */
#define RU_LINGER_MAX 131072   /* discarded after a reply: twice the longest refused body */
#define RU_SCRATCH_SIZE 262144 /* the requests of one batch, per worker */
#define RU_REQUEST_PREFIX 80   /* peer and header in front of each payload in the scratch */
#define RU_SEGMENT_FIRST 1048576 /* of the first one */
#define RU_SEGMENT_SIZE 67108864 /* of a journal: zeroed in a tenth of a second */
#define RU_RESERVE_STEP 65536    /* of the arena, reserved in one call: a signal undoes this much */

/* Counts. */
#define RU_LISTENERS_MAX 16
#define RU_LANE_WORKERS_MAX 64 /* ordinary; slow */
#define RU_WRITERS_MAX 1       /* of handlers: a store has one writer at a time */
#define RU_NATIVE_WORKERS_MAX 64
#define RU_NATIVE_WRITERS_MAX 1 /* executes while the other one waits for the disk */
/* The I/O thread is one more. */
#define RU_WORKERS_MAX                                                                             \
    (2 * RU_LANE_WORKERS_MAX + RU_WRITERS_MAX + RU_NATIVE_WORKERS_MAX + RU_NATIVE_WRITERS_MAX + 1)
#define RU_LIGHT_MAX 64 /* requests that the I/O thread executes in one lap */
/* What these may cost together. The unit is about a nanosecond of the I/O thread on a machine whose
 * caches others use, too; half of one where nobody does. Measured as the CPU time that a request takes
 * above an echo, 64 outstanding, medians of 7 rounds: the costs here and in commands/command.c are
 * fitted to that. The budget takes RU_LIGHT_MAX detects of 25 coins under type 1 (109,000): handing
 * these over would cost more than it saves. Beside a flood of detects or finds under type 5, of which
 * 64 would take 230,000 to 260,000, votes have half the p99 that they had without it. */
#define RU_LIGHT_BUDGET 120000
/* Of it, what encryption takes: types 1 and 2; types 4 and 5, with a payload in the reply. And of each
 * byte of the body so many 1024ths. */
#define RU_LIGHT_SHORT_SEAL 400
#define RU_LIGHT_SHORT_SEAL_1024 128
#define RU_LIGHT_LONG_SEAL 1500
#define RU_LIGHT_LONG_SEAL_1024 768
#define RU_NATIVE_REPLY_MAX 256 /* bytes of the payload of a command's reply that changes coins */
#define RU_DISPATCH_WORKING 500 /* per mille of time on a processor: from here a handler computes */
#define RU_DISPATCH_SAMPLES 4   /* one preemption must not look like waiting */
#define RU_BATCH_MAX 128        /* most tokens in a worker's batch */
#define RU_SLOTS_MAX 32768      /* the kernel's limit for one provided-buffer ring */
#define RU_SLOTS_LENT_MAX 256   /* lent to the kernel at once: few, so that they stay in cache */
#define RU_CONNECTIONS_MAX 65535
#define RU_BUFFERS_MAX 32768
#define RU_ADOPT_MAX 1024 /* connections from another process, queued for the loop */
#define RU_SQ_ENTRIES 1024
#define RU_CQ_ENTRIES_MAX 65536 /* the kernel's limit */
#define RU_EVENTS_BATCH 256     /* completions copied out of the ring at a time */
#define RU_LENT_SMALL_MAX 32    /* blocks lent to one worker in advance */
#define RU_LENT_LARGE_MAX 4
#define RU_LENT_RING 64                    /* entries; a power of two above both */
#define RU_RESERVE_INTERRUPTIONS_MAX 10000 /* EINTR more often is no coincidence: give up */
#define RU_SOURCE_LINES 8192               /* of the table of sources, a cache line each */
#define RU_SOURCE_WAYS 4                   /* buckets of a line */
#define RU_SOURCE_BUCKETS 32768
#define RU_GUARD_NETWORK_FACTOR 16 /* a network's bound is this many times a sender's */
#define RU_CHECKS_MAX 1000000      /* highest value of each bound on failed checks */
#define RU_SEGMENTS_MAX 64         /* of a journal, which then has 4 GB */
#define RU_MEMORY_TRIES 100        /* to read coins of one state beside a writer */
#define RU_RAIDA_ADDRESSES_MAX 128 /* of the other 24 RAIDA, of both families, and some more */
#define RU_EXEMPT_MAX 64           /* networks whose failed checks do not count */

/* cdef: begin */
enum ru_ticket_limit {
    RU_TICKETS_MAX = 512,       /* alive at a time */
    RU_TICKETS_OF_COIN_MAX = 8, /* with the same first coin, once there is no room */
    RU_TICKET_COINS_MAX = 3120, /* as many as a request can name with their ANs */
    RU_TICKET_LIFETIME_S = 300,
};

/* What a thread notes of the requests that it answers, see count/tap.h. */
enum ru_tap_limit {
    RU_TAP_NOTES_KEPT = 2048, /* until the log takes them; a power of two, like the next one */
    RU_TAP_SAMPLES_KEPT = 64,
    RU_TAP_ROUND_SAMPLES = 24, /* in a round of the log: 0.25 s under load */
    RU_TAP_ROUND_FIRST = 16,   /* ... of which so many are the first requests, if load is low */
    RU_TAP_STRIDE_MAX = 1048576,
};
/* cdef: end */

/* Times, in nanoseconds. */
#define RU_TICK_NS (1ULL << 24)         /* timer wheel: about 17 ms */
#define RU_DISPATCH_HOLD_NS 2000000ULL  /* wait for a running batch before waking another worker */
#define RU_DISPATCH_SOON_NS 10000000ULL /* ... unless that batch has already run this long */
#define RU_DISPATCH_BUDGET_NS 250000ULL /* expected work in one batch */
#define RU_DISPATCH_LOOK_NS 2000000ULL  /* between two checks of a batch that others wait for */
#define RU_DISPATCH_SAMPLE_NS 200000000ULL /* between two samples of whether handlers wait */
#define RU_SERVICE_MAX_NS 10000000ULL /* cap, so that one slow handler cannot spoil the estimate */
#define RU_REFUSALS_GAP_NS 5000000000ULL  /* no refusal for this long: connections fit again */
#define RU_ACCEPT_RETRY_NS 100000000ULL   /* after EMFILE, unless a connection closes before */
#define RU_LINGER_NS 2000000000ULL        /* wait for an answered peer to shut down its side */
#define RU_SETTLE_NS 2000000ULL           /* an idle loop counts its last replies after this */
#define RU_LEND_WAIT_MS 20                /* a worker without a reply block retries after this */
#define RU_LEND_UDP_NS 20000000ULL        /* ... drops a datagram's reply after this, */
#define RU_LEND_TCP_NS 1000000000ULL      /* and answers 254 on a connection after this */
#define RU_VIEW_PATIENCE_NS 1000000000ULL /* with a batch that is being applied */
#define RU_RING_WAIT_NS 2000000000ULL     /* at start, for locked memory that is being returned */
#define RU_RING_RETRY_NS 5000000          /* between two tries */

_Static_assert(RU_INLINE_SIZE >= RU_HEADER_LARGE + RU_INLINE_BODY, "inline request");
_Static_assert(RU_TCP_AREA == RU_PEER_SIZE + RU_INLINE_SIZE, "TCP area");
_Static_assert(RU_TCP_AREA % RU_CACHE_LINE == 0, "areas share no cache line");
_Static_assert(RU_LARGE_BLOCK >= RU_REPLY_MAX && RU_LARGE_BLOCK % 64 == 0, "large block");
_Static_assert(RU_SMALL_BLOCK % 64 == 0, "small block");
_Static_assert(RU_REQUEST_PREFIX == RU_PEER_SIZE + RU_HEADER_LARGE, "scratch prefix");
_Static_assert(RU_SCRATCH_SIZE >= RU_REQUEST_PREFIX + 65536 + 8, "one request always fits");
_Static_assert(RU_LENT_RING > RU_LENT_SMALL_MAX && RU_LENT_RING > RU_LENT_LARGE_MAX, "lent ring");
_Static_assert(RU_UDP_PAYLOAD_MIN >= RU_VOTE_SIZE, "votes");
_Static_assert(RU_TICKET_COINS_MAX == RU_BODY_MAX / RU_COIN_AN_SIZE, "coins of a ticket");
_Static_assert(RU_SOURCE_BUCKETS == RU_SOURCE_LINES * RU_SOURCE_WAYS, "table of sources");
_Static_assert((RU_LENT_RING & (RU_LENT_RING - 1)) == 0, "ring sizes are powers of two");

#endif
