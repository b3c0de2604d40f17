/* contender.h: what each contender of the journal benchmark offers, and the records they all take.
 *
 * A record is the bytes of one batch. Every contender gets the same ones, chained by a CRC-32C: a
 * follower has to find a missing or changed record, whatever keeps the journal.
 */
#ifndef JB_CONTENDER_H
#define JB_CONTENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JB_PAGES 15000U
#define JB_PAGE_COINS 1024U
#define JB_CHANGES_MAX 1600U /* 64 requests of 25 coins */
#define JB_PATH_MAX 512U

struct jb_change { /* whole values, so that applying one twice does no harm */
    uint16_t page;
    uint16_t index;
    uint32_t month;
    uint8_t an[16];
};

struct jb_record {
    uint32_t size; /* bytes, header included */
    uint32_t crc;  /* of all that follows, begun with the predecessor's */
    uint64_t sequence;
    uint64_t time_ns;
    struct jb_change changes[];
};

#define JB_RECORD_MAX (sizeof(struct jb_record) + JB_CHANGES_MAX * sizeof(struct jb_change))

_Static_assert(sizeof(struct jb_change) == 24, "a change is 24 bytes");
_Static_assert(sizeof(struct jb_record) == 24, "a record's header is 24 bytes");

enum jb_mode {
    JB_COMMIT,   /* durable when the append returns; old entries stay */
    JB_UPKEEP,   /* durable, and old entries go at the pace at which new ones come */
    JB_WHOLE,    /* the same, and the coins are compared before and changed behind the append */
    JB_INTERVAL, /* written when the append returns, so that a killed process loses nothing */
};

/* Told each record in order; other than 0 ends the scan. */
typedef int (*jb_visit)(void *arg, const struct jb_record *record);

struct jb_ops {
    const char *name;
    uint32_t page_bytes; /* SQLite's */
    bool variant;        /* LMDB: a writable map; SQLite: exclusive locking */

    /* NULL, with a line on stderr, if it cannot be opened. A reader writes nothing. */
    void *(*open)(const struct jb_ops *ops, const char *directory, bool reader);
    void (*set_mode)(void *journal, enum jb_mode mode);
    /* 0 or a code of the contender's own. Entries below `trim_below` go in the same transaction. */
    int (*append)(void *journal, const struct jb_record *record, uint64_t trim_below);
    const char *(*why)(void *journal, int code);
    /* Between two measurements: make the space of all entries reusable. */
    int (*empty)(void *journal);
    /* Wait for what runs in the background. */
    void (*settle)(void *journal);
    /* 0 at the end, -EBADMSG if a valid record follows a bad one, or another negative errno. */
    int (*scan)(void *journal, uint64_t from, jb_visit visit, void *arg);
    void (*close)(void *journal);
};

extern const struct jb_ops jb_own_ops[1], jb_lmdb_ops[2], jb_sqlite_ops[5];

struct jb_chain { /* where a journal ends */
    uint64_t next;
    uint32_t crc;
};

/* The CRC that belongs into `record`, after a record with the CRC `previous`. */
uint32_t jb_record_crc(const struct jb_record *record, uint32_t previous);

/* The next batch of a journal: `changes` coins on random pages. The next call reuses the memory. */
const struct jb_record *jb_record_next(const struct jb_chain *chain, uint32_t changes);

/* The name's contender, or NULL. */
const struct jb_ops *jb_find(const char *name);

/* All of them in turn, the one of our own first; NULL behind the last. */
const struct jb_ops *jb_contender(uint32_t number);

/* Open the writer of a contender in a directory of its own below `directory`, which is made. */
void *jb_open(const struct jb_ops *ops, const char *directory, bool reader);

/* Measure all, `rounds` rounds of `commits` commits, and print. Exit status. */
int jb_measure(const char *directory, uint32_t rounds, uint32_t commits);

#endif
