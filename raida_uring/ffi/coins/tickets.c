/* tickets.c: tickets in slots of the shared memory, taken by compare-and-swap.
 *
 * The lowest free slot is taken, so that few lists occupy memory, and a search ends at the first
 * slot that was never used. As in memory.c, words are stored with release and loaded with acquire:
 * whoever has loaded a word of a later ticket's list finds the slot's word changed.
 */
#include "coins/tickets.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "check.h"
#include "number.h"

/* A slot's word: number (32 bits), whether its list is being written, expiry in seconds. */
#define NUMBER_SHIFT 32
#define WORD_WRITING 0x80000000ULL
#define EXPIRY_MASK 0x7fffffffULL /* differences are right whatever the year */
#define WORD_FREED 1ULL           /* without a number, and not never used */

/* A word of a list: what it says, and above that the tag, which is the last 24 bits of the
 * number. */
#define TAG_SHIFT 40
#define COUNT_SHIFT RU_RAIDA_COUNT
#define COUNT_MASK ((1ULL << (TAG_SHIFT - COUNT_SHIFT)) - 1)
#define BACKED_STEP 4096U

_Static_assert(RU_COIN_NAME_SIZE * 8 == TAG_SHIFT, "a name and a tag fill a word");
_Static_assert(RU_TICKET_COINS_MAX <= COUNT_MASK, "count");
_Static_assert(sizeof(struct ru_ticket_list) % BACKED_STEP == 0, "lists share no page");
_Static_assert(sizeof(struct ru_ticket_list) <= UINT16_MAX, "backed");

static uint64_t word_load(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

static void word_store(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static bool word_swap(uint64_t *at, uint64_t from, uint64_t to)
{
    return __atomic_compare_exchange_n(at, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static uint32_t word_number(uint64_t word)
{
    return (uint32_t)(word >> NUMBER_SHIFT);
}

/* Seconds until `expiry`; 0: it has passed. A ticket that expires more than two lifetimes from now
 * was issued while the clock was ahead, and counts as expired. */
static uint32_t seconds_left(uint64_t expiry, uint64_t now_s)
{
    uint64_t left = (expiry - now_s) & EXPIRY_MASK;
    return left <= 2ULL * RU_TICKET_LIFETIME_S ? (uint32_t)left : 0;
}

static uint64_t number_tag(uint32_t number)
{
    return (uint64_t)number << TAG_SHIFT;
}

static bool tag_differs(uint64_t list_word, uint32_t number)
{
    return (list_word ^ number_tag(number)) >> TAG_SHIFT != 0;
}

static bool word_is_free(uint64_t word, uint64_t now_s)
{
    return word_number(word) == 0 || seconds_left(word, now_s) == 0;
}

static bool word_is_alive(uint64_t word, uint64_t now_s)
{
    return !(word & WORD_WRITING) && !word_is_free(word, now_s);
}

/* ---- room for a ticket ---- */

/* A living ticket, for those that end early. */
struct living {
    uint64_t coin; /* its first one */
    uint64_t word;
    uint32_t left_s;
    uint32_t slot;
};

/* By coin, newest first. */
static int living_order(const void *one, const void *other)
{
    const struct living *a = one;
    const struct living *b = other;
    if (a->coin != b->coin)
        return a->coin < b->coin ? -1 : 1;
    if (a->left_s != b->left_s)
        return a->left_s > b->left_s ? -1 : 1;
    return a->slot < b->slot ? -1 : 1;
}

/* False: the slot has changed meanwhile, or its list is not whole. */
static bool living_read(const struct ru_memory *memory, uint32_t slot, uint64_t word,
                        struct living *living)
{
    uint64_t coin = word_load(&memory->ticket_lists[slot].coins[0]);
    if (word_load(&memory->tickets->words[slot]) != word || tag_differs(coin, word_number(word)))
        return false;
    living->word = word;
    living->coin = coin ^ number_tag(word_number(word));
    living->slot = slot;
    return true;
}

/* Make a slot free before its ticket expires. */
static bool slot_free(struct ru_ticket_slots *slots, uint32_t slot, uint64_t word)
{
    if (!word_swap(&slots->words[slot], word, WORD_FREED))
        return false;
    __atomic_fetch_add(&slots->freed, 1, __ATOMIC_SEQ_CST);
    return true;
}

/* How many tickets end because there are RU_TICKETS_OF_COIN_MAX newer ones of their first coin. */
static uint32_t living_end(struct ru_ticket_slots *slots, struct living *living, uint32_t count)
{
    uint32_t ended = 0;
    uint32_t newer = 0;
    qsort(living, count, sizeof(*living), living_order);
    for (uint32_t i = 0; i < count; i++) {
        newer = i > 0 && living[i].coin == living[i - 1].coin ? newer + 1 : 0;
        if (newer >= RU_TICKETS_OF_COIN_MAX)
            ended += slot_free(slots, living[i].slot, living[i].word);
    }
    return ended;
}

/* Look for a slot that can be made free. The owner of one coin may request any number of tickets
 * for it: 512 requests would otherwise block everybody's healing for five minutes. If there is
 * none, that is noted, because it takes long and will be asked again. */
static bool slots_make_room(const struct ru_memory *memory, uint64_t now_s)
{
    struct ru_ticket_slots *slots = memory->tickets;
    struct living living[RU_TICKETS_MAX];
    uint32_t count = 0;
    uint32_t freed = __atomic_load_n(&slots->freed, __ATOMIC_SEQ_CST);
    uint32_t left_min_s = 2 * RU_TICKET_LIFETIME_S;
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++) {
        uint64_t word = word_load(&slots->words[i]);
        if (word_is_free(word, now_s))
            return true;
        living[count].left_s = seconds_left(word, now_s);
        left_min_s = ru_number_min32(left_min_s, living[count].left_s);
        if (!(word & WORD_WRITING) && living_read(memory, i, word, &living[count]))
            count++;
    }
    if (living_end(slots, living, count) > 0)
        return true;
    word_store(&slots->full, (now_s + left_min_s) << NUMBER_SHIFT | freed);
    return false;
}

static bool slots_are_full(const struct ru_ticket_slots *slots, uint64_t now_s)
{
    uint64_t full = word_load(&slots->full);
    return full != 0 && seconds_left(full >> NUMBER_SHIFT, now_s) > 0 &&
           (uint32_t)full == __atomic_load_n(&slots->freed, __ATOMIC_SEQ_CST);
}

/* Put `word` into a free slot; RU_NONE: there is none. */
static uint32_t slot_take(const struct ru_memory *memory, uint64_t word, uint64_t now_s)
{
    struct ru_ticket_slots *slots = memory->tickets;
    if (slots_are_full(slots, now_s))
        return RU_NONE;
    for (bool again = true;; again = false) {
        for (uint32_t i = 0; i < RU_TICKETS_MAX; i++) {
            uint64_t before = word_load(&slots->words[i]);
            if (word_is_free(before, now_s) && word_swap(&slots->words[i], before, word))
                return i;
        }
        if (!again || !slots_make_room(memory, now_s))
            return RU_NONE;
    }
}

/* ---- issue ---- */

/* Whether another slot than `slot` has the number. Two that take a slot with one number at the same
 * time both find the other, or one of them does. */
static bool number_is_taken(const struct ru_ticket_slots *slots, uint32_t number, uint32_t slot,
                            uint64_t now_s)
{
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++) {
        uint64_t word = word_load(&slots->words[i]);
        if (word == 0)
            break;
        if (word_number(word) == number && i != slot && seconds_left(word, now_s) > 0)
            return true;
    }
    return false;
}

/* Have memory for the list of `count` coins: the first write would be a SIGBUS otherwise. */
static int list_back(const struct ru_memory *memory, uint32_t slot, uint32_t count)
{
    uint16_t *backed = &memory->tickets->backed[slot];
    uint32_t bytes = (1 + count) * (uint32_t)sizeof(uint64_t);
    bytes = (bytes + BACKED_STEP - 1) / BACKED_STEP * BACKED_STEP;
    if (bytes <= __atomic_load_n(backed, __ATOMIC_ACQUIRE))
        return 0;
    int rc = ru_memory_set_aside(memory, &memory->ticket_lists[slot], bytes);
    if (rc == 0)
        __atomic_store_n(backed, (uint16_t)bytes, __ATOMIC_RELEASE);
    return rc;
}

static uint64_t coin_word(const uint8_t *name)
{
    uint64_t word = 0;
    for (uint32_t i = 0; i < RU_COIN_NAME_SIZE; i++)
        word = word << 8 | name[i];
    return word;
}

static void list_write(struct ru_ticket_list *list, uint32_t number, struct ru_coin_list coins)
{
    const uint64_t tag = number_tag(number);
    word_store(&list->claims, tag | (uint64_t)coins.count << COUNT_SHIFT);
    for (uint32_t i = 0; i < coins.count; i++)
        word_store(&list->coins[i], tag | coin_word(coins.at + (size_t)i * coins.stride));
}

int ru_tickets_put(const struct ru_memory *memory, uint32_t number, struct ru_coin_list coins,
                   uint64_t now_s)
{
    struct ru_ticket_slots *slots = memory->tickets;
    const uint64_t expiry = (now_s + RU_TICKET_LIFETIME_S) & EXPIRY_MASK;
    const uint64_t published = (uint64_t)number << NUMBER_SHIFT | expiry;
    const uint64_t writing = published | WORD_WRITING;
    RU_CHECK(coins.count > 0 && coins.count <= RU_TICKET_COINS_MAX);
    if (number == 0)
        return -EEXIST;
    uint32_t slot = slot_take(memory, writing, now_s);
    if (slot == RU_NONE)
        return RU_TICKET_FULL;
    int rc = number_is_taken(slots, number, slot, now_s) ? -EEXIST : 0;
    if (rc == 0)
        rc = list_back(memory, slot, coins.count);
    if (rc != 0) {
        (void)slot_free(slots, slot, writing);
        return rc;
    }
    list_write(&memory->ticket_lists[slot], number, coins);
    return word_swap(&slots->words[slot], writing, published) ? 0 : -EEXIST;
}

int ru_tickets_issue(const struct ru_memory *memory, struct ru_coin_list coins, uint64_t now_s,
                     uint32_t *number)
{
    int rc;
    do {
        if (getrandom(number, sizeof(*number), 0) != (ssize_t)sizeof(*number))
            return -errno;
        rc = ru_tickets_put(memory, *number, coins, now_s);
    } while (rc == -EEXIST);
    return rc;
}

/* ---- claim ---- */

/* The slot of a living ticket, and its word; RU_NONE: there is no such ticket. */
static uint32_t slot_of(const struct ru_ticket_slots *slots, uint32_t number, uint64_t now_s,
                        uint64_t *found)
{
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++) {
        uint64_t word = word_load(&slots->words[i]);
        if (word == 0)
            break;
        *found = word;
        if (word_number(word) == number && word_is_alive(word, now_s))
            return i;
    }
    return RU_NONE;
}

/* False: a word is another ticket's. */
static bool list_copy(const struct ru_ticket_list *list, uint32_t number, uint32_t count,
                      uint8_t *names)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t word = word_load(&list->coins[i]);
        if (tag_differs(word, number))
            return false;
        for (uint32_t byte = RU_COIN_NAME_SIZE; byte-- > 0; word >>= 8)
            names[(size_t)i * RU_COIN_NAME_SIZE + byte] = (uint8_t)word;
    }
    return true;
}

/* As ru_tickets_claim(), of a list with these `claims`, and without claiming it. */
static int list_read(const struct ru_ticket_list *list, uint64_t claims, uint32_t number,
                     uint32_t raida, uint8_t *names, uint32_t bytes_max)
{
    const uint32_t count = (uint32_t)(claims >> COUNT_SHIFT & COUNT_MASK);
    const uint32_t bytes = count * RU_COIN_NAME_SIZE;
    RU_CHECK(count <= RU_TICKET_COINS_MAX);
    if (tag_differs(claims, number))
        return RU_TICKET_UNKNOWN;
    if (claims >> raida & 1)
        return RU_TICKET_CLAIMED;
    if (bytes > bytes_max)
        return RU_TICKET_LARGE;
    return list_copy(list, number, count, names) ? (int)bytes : RU_TICKET_UNKNOWN;
}

int ru_tickets_claim(const struct ru_memory *memory, uint32_t number, uint32_t raida,
                     uint64_t now_s, uint8_t *names, uint32_t bytes_max)
{
    uint64_t word;
    RU_CHECK(raida < RU_RAIDA_COUNT);
    uint32_t slot = slot_of(memory->tickets, number, now_s, &word);
    if (slot == RU_NONE)
        return RU_TICKET_UNKNOWN;
    struct ru_ticket_list *list = &memory->ticket_lists[slot];
    for (;;) {
        uint64_t claims = word_load(&list->claims);
        int rc = list_read(list, claims, number, raida, names, bytes_max);
        if (word_load(&memory->tickets->words[slot]) != word)
            return RU_TICKET_UNKNOWN;
        if (rc < 0 || word_swap(&list->claims, claims, claims | 1ULL << raida))
            return rc;
    }
}

bool ru_tickets_known(const struct ru_memory *memory, uint32_t number, uint64_t now_s)
{
    uint64_t word;
    return number != 0 && slot_of(memory->tickets, number, now_s, &word) != RU_NONE;
}

uint32_t ru_tickets_alive(const struct ru_memory *memory, uint64_t now_s)
{
    uint32_t alive = 0;
    for (uint32_t i = 0; i < RU_TICKETS_MAX; i++)
        alive += word_is_alive(word_load(&memory->tickets->words[i]), now_s);
    return alive;
}
