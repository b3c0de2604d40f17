/* test_conn.c: TCP framing and the connection state machine, without a socket.
 *
 * Whatever happens: requests begun = answered + dropped + in flight, connections accepted = open +
 * closed, and every block comes back.
 */
#include "wire/conn.h"
#include "native.h"

#define MS 1000000ULL

struct host {
    struct native_node node;
    struct ru_blocks blocks;
    struct ru_counters counters;
    struct ru_conns conns;
    uint64_t now_ns;
    uint64_t accepted;
};

static void host_open(struct host *host, const struct ru_config *config)
{
    *host = (struct host){.now_ns = 1000 * MS};
    native_open(&host->node, config);
    EXPECT_EQUAL(ru_blocks_init(&host->blocks, config->small_blocks, config->large_blocks), 0);
    EXPECT_EQUAL(ru_conns_init(&host->conns, config, &host->node.front, &host->node.arena,
                               &host->blocks, &host->counters),
                 0);
}

static void expect_laws(const struct host *host)
{
    const struct ru_counters *c = &host->counters;
    EXPECT_EQUAL(c->tcp_requests, c->tcp_answered + c->tcp_dropped_eof + c->tcp_dropped_reset +
                                      c->tcp_dropped_timeout + c->tcp_dropped_peer_gone +
                                      c->tcp_dropped_drain + c->tcp_in_flight);
    EXPECT_EQUAL(host->accepted,
                 c->connections_open + c->connections_closed_done + c->connections_closed_eof +
                     c->connections_closed_reset + c->connections_closed_header_timeout +
                     c->connections_closed_body_timeout + c->connections_closed_write_timeout +
                     c->connections_closed_idle_timeout + c->connections_closed_early +
                     c->connections_closed_drain + c->connections_closed_handed_over);
}

/* Closed with nothing left behind. */
static void host_close(struct host *host)
{
    expect_laws(host);
    EXPECT_EQUAL(host->conns.used_count, 0);
    EXPECT_EQUAL(host->conns.waiting_counts[RU_BLOCK_SMALL], 0);
    EXPECT_EQUAL(host->counters.tcp_in_flight, 0);
    EXPECT_EQUAL(host->counters.connections_open, 0);
    EXPECT_EQUAL(host->blocks.free_count[0], host->node.config.small_blocks);
    EXPECT_EQUAL(host->blocks.free_count[1], host->node.config.large_blocks);
    ru_conns_destroy(&host->conns);
    ru_blocks_destroy(&host->blocks);
    native_close(&host->node);
}

static struct ru_conn *host_conn(struct host *host, uint32_t index)
{
    return ru_conn_at(&host->conns, index);
}

static uint32_t host_accept(struct host *host)
{
    uint32_t index = ru_conn_open(&host->conns, 1000, 0, host->now_ns);
    host->accepted += index != RU_NONE;
    return index;
}

/* What the loop does once nothing is in flight on a connection that is DONE. */
static void host_release(struct host *host, uint32_t index)
{
    host_conn(host, index)->fd = -1;
    ru_conn_count_closed(&host->conns, index);
    ru_conn_release(&host->conns, index);
    expect_laws(host);
}

/* Close from any state and release. */
static void host_hang_up(struct host *host, uint32_t index)
{
    if (host_conn(host, index)->state != RU_CONN_DONE)
        ru_conn_close(&host->conns, index, RU_CLOSED_RESET, host->now_ns);
    host_release(host, index);
}

/* Feed all the bytes; the action of the last one. They must not go past it. */
static enum ru_conn_action host_feed(struct host *host, uint32_t index, const uint8_t *bytes,
                                     uint32_t size)
{
    uint32_t used = 0;
    enum ru_conn_action action =
        ru_conn_feed(&host->conns, index, bytes, size, host->now_ns, &used);
    EXPECT_EQUAL(used, size);
    expect_laws(host);
    return action;
}

/* Feed the header of a plain worker's request with a body of `body_size` bytes. */
static enum ru_conn_action host_announce(struct host *host, uint32_t index, uint16_t body_size)
{
    uint8_t header[RU_HEADER_LARGE];
    uint8_t size = native_header(header, 0, NATIVE_WORKER, body_size, 0);
    return host_feed(host, index, header, size);
}

static enum ru_conn_action host_body(struct host *host, uint32_t index, uint32_t size)
{
    static const uint8_t zeros[65535];
    return host_feed(host, index, zeros, size);
}

/* ---- framing: whole, byte by byte, in random pieces ---- */

#define REQUESTS_MAX 6
#define STREAM_MAX (REQUESTS_MAX * (RU_HEADER_LARGE + 65535))

/* A stream of requests and, by hand, what must become of each: one letter per request.
 * E echo, Q queued, S queued for the slow lane, R refused. */
struct stream {
    uint8_t *bytes;
    uint32_t size;
    uint32_t body_bytes_max;
    bool persistent;
    char want[REQUESTS_MAX + 1];
};

static uint16_t draw_body_size(struct ru_random *random)
{
    static const uint16_t sizes[] = {0, 0, 1, 17, 18, 19, 255, 256, 257, 2047, 2048, 2049, 65535};
    uint32_t choice = native_below(random, sizeof(sizes) / 2 + 4);
    return choice < sizeof(sizes) / 2 ? sizes[choice] : (uint16_t)native_below(random, 600);
}

static char stream_add(struct stream *stream, struct ru_random *random)
{
    static const uint8_t encryptions[] = {0, 0, 0, 1, 2, 4, 5};
    static const enum native_command commands[] = {NATIVE_ECHO, NATIVE_ECHO, NATIVE_WORKER,
                                                   NATIVE_SLOW};
    static const uint8_t faulty_at[] = {0, 1, 2, 3, 4, 5, 6, 16};
    uint8_t encryption = encryptions[native_below(random, sizeof(encryptions))];
    enum native_command command = commands[native_below(random, 4)];
    uint16_t body_size = draw_body_size(random);
    uint8_t *header = stream->bytes + stream->size;
    uint8_t header_size =
        native_header(header, encryption, command, body_size, (uint8_t)native_random(random));
    uint8_t *body = header + header_size;
    native_body(body, body_size, random);
    bool valid = body_size == 0 || body_size >= RU_PLAIN_BODY_MIN;
    if (body_size > 0 && native_below(random, 4) == 0) {
        body[native_below(random, body_size < 16 ? body_size : 16)] ^= 0x40; /* a wrong CRC */
        valid = false;
    }
    stream->size += header_size + body_size;
    if (native_below(random, 12) == 0) {
        header[faulty_at[native_below(random, sizeof(faulty_at))]] = 0xF3;
        stream->size += RU_HEADER_LARGE; /* byte 16 may have made the header longer */
        return 'R';
    }
    if (body_size > stream->body_bytes_max)
        return 'R';
    if (command == NATIVE_ECHO && encryption == 0 && valid)
        return 'E';
    return command == NATIVE_SLOW ? 'S' : 'Q';
}

static void stream_draw(struct stream *stream, struct ru_random *random)
{
    static const uint32_t maxima[] = {65536, 65536, 2048, 18};
    stream->size = 0;
    stream->body_bytes_max = maxima[native_below(random, 4)];
    stream->persistent = native_below(random, 4) > 0;
    memset(stream->want, 0, sizeof(stream->want));
    uint32_t count = 1 + native_below(random, REQUESTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        char letter = stream_add(stream, random);
        bool over = i > 0 &&
                    (!stream->persistent || stream->want[i - 1] == 'R' || stream->want[i - 1] == 0);
        stream->want[i] = (char)(over ? 0 : letter); /* nobody reads on after the last answer */
    }
}

/* Everything that a run makes visible, one thing behind the other. */
struct transcript {
    FILE *file;
    char *bytes;
    size_t size;
    char letters[REQUESTS_MAX + 1];
    uint32_t count;
};

static void transcript_open(struct transcript *transcript)
{
    *transcript = (struct transcript){0};
    transcript->file = open_memstream(&transcript->bytes, &transcript->size);
}

static void transcript_add(struct transcript *transcript, const void *bytes, size_t size)
{
    EXPECT_EQUAL(fwrite(bytes, 1, size, transcript->file), size);
}

static void transcript_letter(struct transcript *transcript, char letter)
{
    EXPECT(transcript->count < REQUESTS_MAX);
    if (transcript->count < REQUESTS_MAX)
        transcript->letters[transcript->count++] = letter;
}

/* A worker's part: look at the request through its context, answer inline or in a block. */
static enum ru_conn_action serve(struct host *host, uint32_t index, struct transcript *transcript)
{
    const struct ru_arena *arena = &host->node.arena;
    const struct ru_context *context = ru_arena_context(arena, arena->slots + index);
    transcript_add(transcript, context, sizeof(*context));
    transcript_add(transcript, arena->base + context->header_at, context->header_size);
    transcript_add(transcript, arena->base + context->body_at, context->body_present);
    EXPECT_EQUAL(context->body_present, context->body_size);
    if (context->body_size % 2 == 0) {
        memset(arena->base + context->inline_at, 0x11, context->inline_size);
        return ru_conn_replied(&host->conns, index, RU_NONE, context->inline_size, host->now_ns);
    }
    uint32_t block = ru_block_acquire(&host->blocks, RU_BLOCK_LARGE, arena->slots + index);
    memset(arena->base + ru_arena_block_at(arena, block), 0x22, RU_REPLY_MAX);
    return ru_conn_replied(&host->conns, index, block, RU_REPLY_MAX, host->now_ns);
}

/* Do what the state machine asks until it wants bytes again or is done. */
static void react(struct host *host, uint32_t index, enum ru_conn_action action,
                  struct transcript *transcript)
{
    while (action != RU_CONN_NOTHING && action != RU_CONN_NEXT && action != RU_CONN_CLOSE &&
           action != RU_CONN_END) {
        transcript_add(transcript, &action, sizeof(action));
        expect_laws(host);
        if (action == RU_CONN_QUEUE) {
            const struct ru_header *header = &ru_conn_at(&host->conns, index)->header;
            transcript_letter(transcript, ru_header_lane(header) == RU_LANE_SLOW ? 'S' : 'Q');
            action = serve(host, index, transcript);
            continue;
        }
        EXPECT_EQUAL(action, RU_CONN_SEND);
        uint32_t size = 0;
        const uint8_t *bytes = ru_conn_unsent(&host->conns, index, &size);
        transcript_add(transcript, bytes, size);
        if (size == RU_HEADER_SMALL || size == RU_HEADER_LARGE) /* not one of serve() */
            transcript_letter(transcript,
                              bytes[RU_REPLY_STATUS_AT] == RU_STATUS_SUCCESS ? 'E' : 'R');
        action = ru_conn_sent(&host->conns, index, (int32_t)size, host->now_ns);
    }
    transcript_add(transcript, &action, action == RU_CONN_NOTHING ? 0 : sizeof(action));
}

/* Answered for good, or closed. */
static bool host_ended(struct host *host, uint32_t index)
{
    uint8_t state = host_conn(host, index)->state;
    return state == RU_CONN_LINGER || state == RU_CONN_DONE;
}

/* Feed the stream in pieces of at most piece_max bytes, or of random sizes if that is 0. */
static void play(struct host *host, const struct stream *stream, uint32_t piece_max,
                 struct ru_random *random, struct transcript *transcript)
{
    host->conns.persistent = stream->persistent;
    host->node.front.identity.body_bytes_max = stream->body_bytes_max;
    host->node.front.random.state = 5; /* the same nonces in every run */
    uint32_t index = host_accept(host);
    uint32_t at = 0;
    while (at < stream->size && !host_ended(host, index)) {
        uint32_t left = stream->size - at;
        uint32_t piece =
            piece_max ? piece_max : 1 + native_below(random, 1U << native_below(random, 17));
        for (piece = piece < left ? piece : left; piece > 0;) {
            uint32_t used = 0;
            enum ru_conn_action action =
                ru_conn_feed(&host->conns, index, stream->bytes + at, piece, host->now_ns, &used);
            at += used;
            piece -= used;
            react(host, index, action, transcript);
            if (host_ended(host, index))
                break;
        }
    }
    if (host_conn(host, index)->state == RU_CONN_LINGER)
        ru_conn_close(&host->conns, index, RU_CLOSED_DONE, host->now_ns);
    else if (host_conn(host, index)->state != RU_CONN_DONE)
        EXPECT_EQUAL(ru_conn_end_of_stream(&host->conns, index, host->now_ns), RU_CONN_CLOSE);
    transcript_add(transcript, &host_conn(host, index)->reason, 1);
    transcript_add(transcript, &at, sizeof(at));
    EXPECT_EQUAL(host_conn(host, index)->reason, RU_CLOSED_DONE);
    host_release(host, index);
    (void)fflush(transcript->file);
}

static void transcript_close(struct transcript *transcript)
{
    (void)fclose(transcript->file);
    free(transcript->bytes);
}

static void test_pieces_do_not_matter(void)
{
    struct ru_random random = {native_seed()};
    struct ru_config config = native_config();
    struct host host;
    struct stream stream = {.bytes = malloc(STREAM_MAX + REQUESTS_MAX * RU_HEADER_LARGE)};
    host_open(&host, &config);
    for (uint32_t round = 0; round < 400; round++) {
        static const uint32_t pieces[] = {UINT32_MAX, 1, 0, 0};
        struct transcript runs[4];
        stream_draw(&stream, &random);
        for (uint32_t i = 0; i < 4; i++) {
            transcript_open(&runs[i]);
            play(&host, &stream, pieces[i], &random, &runs[i]);
            EXPECT(strcmp(runs[i].letters, stream.want) == 0);
            EXPECT_EQUAL(runs[i].size, runs[0].size);
            if (runs[i].size == runs[0].size)
                EXPECT(memcmp(runs[i].bytes, runs[0].bytes, runs[0].size) == 0);
        }
        for (uint32_t i = 0; i < 4; i++)
            transcript_close(&runs[i]);
    }
    free(stream.bytes);
    host_close(&host);
}

/* An end of the stream at every point of a request: an end within it, or a clean one before. */
static void test_end_of_stream_everywhere(void)
{
    struct ru_random random = {native_seed()};
    struct ru_config config = native_config();
    struct host host;
    uint8_t bytes[RU_HEADER_LARGE + 300];
    host_open(&host, &config);
    for (uint8_t encryption = 0; encryption <= 4; encryption += 4) {
        uint32_t size = native_header(bytes, encryption, NATIVE_WORKER, 300, 0);
        native_body(bytes + size, 300, &random);
        for (uint32_t cut = 0; cut < size + 300; cut++) {
            uint32_t index = host_accept(&host);
            if (cut > 0)
                EXPECT_EQUAL(host_feed(&host, index, bytes, cut), RU_CONN_NOTHING);
            EXPECT_EQUAL(host.counters.tcp_in_flight, cut > 0);
            EXPECT_EQUAL(ru_conn_end_of_stream(&host.conns, index, host.now_ns), RU_CONN_CLOSE);
            EXPECT_EQUAL(host_conn(&host, index)->reason, cut > 0 ? RU_CLOSED_EOF : RU_CLOSED_DONE);
            host_release(&host, index);
        }
    }
    EXPECT_EQUAL(host.counters.tcp_dropped_eof, 331 + 347);
    host_close(&host);
}

/* ---- legal and illegal calls ---- */

/* Bring a new connection into a state; small blocks are all taken when it is WAIT_BLOCK. */
static uint32_t host_conn_in(struct host *host, enum ru_conn_state state)
{
    uint32_t index = host_accept(host);
    switch (state) {
    case RU_CONN_FREE:
        host_hang_up(host, index);
        break;
    case RU_CONN_WAIT_BLOCK:
        while (ru_block_acquire(&host->blocks, RU_BLOCK_SMALL, ru_block_worker(0)) != RU_NONE)
            ;
        EXPECT_EQUAL(host_announce(host, index, 300), RU_CONN_AWAIT_BLOCK);
        break;
    case RU_CONN_READ_BODY:
        EXPECT_EQUAL(host_announce(host, index, 300), RU_CONN_NOTHING);
        break;
    case RU_CONN_PROCESSING:
    case RU_CONN_WRITE:
    case RU_CONN_LINGER:
        EXPECT_EQUAL(host_announce(host, index, 0), RU_CONN_QUEUE);
        if (state != RU_CONN_PROCESSING)
            EXPECT_EQUAL(ru_conn_replied(&host->conns, index, RU_NONE, 32, host->now_ns),
                         RU_CONN_SEND);
        if (state != RU_CONN_LINGER)
            break;
        host_conn(host, index)->refused = true;
        EXPECT_EQUAL(ru_conn_sent(&host->conns, index, 32, host->now_ns), RU_CONN_END);
        break;
    case RU_CONN_DONE:
        ru_conn_close(&host->conns, index, RU_CLOSED_DRAIN, host->now_ns);
        host_conn(host, index)->fd = -1;
        break;
    case RU_CONN_READ_HEADER:
    case RU_CONN_STATES:
        break;
    }
    EXPECT_EQUAL(host_conn(host, index)->state, state);
    return index;
}

/* Give every block back that host_conn_in() took and end the connection. */
static void host_discard(struct host *host, uint32_t index)
{
    struct ru_conn *conn = host_conn(host, index);
    for (uint32_t block = 0; block < host->node.config.small_blocks; block++) {
        if (host->blocks.owners[block] == ru_block_worker(0))
            ru_block_release(&host->blocks, block);
    }
    if (conn->state != RU_CONN_FREE && conn->state != RU_CONN_DONE)
        ru_conn_close(&host->conns, index, RU_CLOSED_DRAIN, host->now_ns);
    if (conn->state == RU_CONN_DONE && host->counters.connections_open > 0)
        ru_conn_count_closed(&host->conns, index);
    conn->fd = -1;
    if (conn->state == RU_CONN_DONE)
        ru_conn_release(&host->conns, index);
}

enum call {
    CALL_FEED,
    CALL_UNSTARVE,
    CALL_END_OF_STREAM,
    CALL_REPLIED,
    CALL_REFUSE,
    CALL_UNSENT,
    CALL_SENT,
    CALL_CLOSE,
    CALL_COUNT_CLOSED,
    CALL_RELEASE,
    CALLS,
};

#define IN(state) (1U << RU_CONN_##state)

/* The states in which each call is legal. */
static const uint32_t legal_in[CALLS] = {
    [CALL_FEED] = IN(READ_HEADER) | IN(READ_BODY),
    [CALL_UNSTARVE] = IN(WAIT_BLOCK),
    [CALL_END_OF_STREAM] = IN(READ_HEADER) | IN(WAIT_BLOCK) | IN(READ_BODY),
    [CALL_REPLIED] = IN(PROCESSING),
    [CALL_REFUSE] = IN(PROCESSING),
    [CALL_UNSENT] = IN(WRITE),
    [CALL_SENT] = IN(WRITE),
    [CALL_CLOSE] =
        IN(READ_HEADER) | IN(WAIT_BLOCK) | IN(READ_BODY) | IN(PROCESSING) | IN(WRITE) | IN(LINGER),
    [CALL_COUNT_CLOSED] = IN(DONE),
    [CALL_RELEASE] = IN(DONE),
};

static void do_call(struct host *host, uint32_t index, enum call call)
{
    struct ru_conns *conns = &host->conns;
    uint32_t size;
    switch (call) {
    case CALL_FEED:
        (void)ru_conn_feed(conns, index, (const uint8_t *)"", 1, host->now_ns, &size);
        break;
    case CALL_UNSTARVE:
        (void)ru_conn_retry_block(conns, index, host->now_ns);
        break;
    case CALL_END_OF_STREAM:
        (void)ru_conn_end_of_stream(conns, index, host->now_ns);
        break;
    case CALL_REPLIED:
        (void)ru_conn_replied(conns, index, RU_NONE, 32, host->now_ns);
        break;
    case CALL_REFUSE:
        (void)ru_conn_refuse(conns, index, RU_STATUS_REQUEST_RATE, host->now_ns);
        break;
    case CALL_UNSENT:
        (void)ru_conn_unsent(conns, index, &size);
        break;
    case CALL_SENT:
        (void)ru_conn_sent(conns, index, 1, host->now_ns);
        break;
    case CALL_CLOSE:
        ru_conn_close(conns, index, RU_CLOSED_RESET, host->now_ns);
        break;
    case CALL_COUNT_CLOSED:
        ru_conn_count_closed(conns, index);
        break;
    case CALL_RELEASE:
        host_conn(host, index)->fd = -1;
        ru_conn_release(conns, index);
        break;
    case CALLS:
        break;
    }
}

static void test_every_call_in_every_state(void)
{
    struct ru_config config = native_config();
    for (enum ru_conn_state state = RU_CONN_FREE; state < RU_CONN_STATES; state++) {
        for (enum call call = 0; call < CALLS; call++) {
            struct host host;
            host_open(&host, &config);
            uint32_t index = host_conn_in(&host, state);
            if (legal_in[call] & 1U << state) {
                if (call == CALL_RELEASE)
                    ru_conn_count_closed(&host.conns, index);
                do_call(&host, index, call);
            } else {
                EXPECT_ABORT(do_call(&host, index, call));
            }
            host_discard(&host, index);
            host_close(&host);
        }
    }
}

/* Operations in flight, a worker or a queue that still know a connection keep it from release. */
static void test_release_needs_everybody_gone(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_DONE);
    struct ru_conn *conn = host_conn(&host, index);
    bool *const flags[] = {&conn->queued, &conn->with_worker, &conn->receiving, &conn->sending,
                           &conn->awaits_memory};
    for (uint32_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        *flags[i] = true;
        EXPECT_ABORT(ru_conn_release(&host.conns, index));
        *flags[i] = false;
    }
    conn->unread.first = 0;
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    conn->unread = RU_LIST_EMPTY;
    conn->fd = 5;
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    conn->fd = -1;
    host_release(&host, index);
    EXPECT_ABORT(ru_conn_release(&host.conns, index));
    host_close(&host);
}

static void test_other_misuse(void)
{
    struct ru_config config = native_config();
    struct host host;
    uint32_t used;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
    struct ru_conn *conn = host_conn(&host, index);
    EXPECT_ABORT((void)ru_conn_at(&host.conns, host.conns.capacity));
    conn->with_worker = true;
    EXPECT_ABORT(do_call(&host, index, CALL_REPLIED)); /* before it came back */
    EXPECT_ABORT(do_call(&host, index, CALL_REFUSE));
    conn->with_worker = false;
    conn->queued = true;
    EXPECT_ABORT(do_call(&host, index, CALL_REPLIED));
    EXPECT_ABORT(do_call(&host, index, CALL_REFUSE));
    conn->queued = false;
    do_call(&host, index, CALL_REPLIED);
    EXPECT_ABORT((void)ru_conn_sent(&host.conns, index, 33, 0)); /* more than there is */
    host_hang_up(&host, index);
    index = host_accept(&host);
    EXPECT_ABORT((void)ru_conn_feed(&host.conns, index, NULL, 0, 0, &used));
    host_hang_up(&host, index);
    host_close(&host);
}

/* ---- life ---- */

static void test_nothing_of_the_last_connection_survives(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_READ_BODY);
    struct ru_conn *conn = host_conn(&host, index);
    conn->answered_before = conn->refused = conn->eof = conn->discards = true;
    conn->cancelling = conn->cancelling_send = true;
    uint32_t generation = conn->generation;
    host_hang_up(&host, index);
    EXPECT_EQUAL(host_accept(&host), index);
    EXPECT_EQUAL(conn->generation, generation + 1);
    EXPECT_EQUAL(conn->state, RU_CONN_READ_HEADER);
    EXPECT_EQUAL(conn->header_have + conn->body_have, 0);
    EXPECT(!conn->request_open && !conn->answered_before && !conn->refused);
    EXPECT(!conn->eof && !conn->discards && !conn->cancelling && !conn->cancelling_send);
    EXPECT(conn->body_block == RU_NONE && conn->reply_block == RU_NONE);
    EXPECT(conn->unread.first == RU_NONE && conn->unread.last == RU_NONE);
    EXPECT_EQUAL(conn->state_since_ns, host.now_ns);
    conn->generation = UINT32_MAX;
    host_hang_up(&host, index);
    EXPECT_EQUAL(conn->generation, 1);
    host_close(&host);
}

static void test_as_many_connections_as_configured(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < config.connections_max; i++)
        EXPECT(host_accept(&host) < config.connections_max);
    EXPECT_EQUAL(host_accept(&host), RU_NONE);
    for (uint32_t i = 0; i < config.connections_max; i++)
        host_hang_up(&host, i);
    host_close(&host);
}

/* A worker keeps the context of a peer that left until it returns it. */
static void test_an_orphan_is_the_workers(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
    struct ru_conn *conn = host_conn(&host, index);
    uint64_t token = ru_token_pack(0, host.node.arena.slots + index, conn->token_generation);
    EXPECT(!ru_conn_token_valid(&host.conns, token, 2)); /* still queued */
    conn->with_worker = true;
    conn->worker = 2;
    EXPECT(ru_conn_token_valid(&host.conns, token, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token, 1));
    EXPECT(!ru_conn_token_valid(&host.conns, token + 1, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token | 1 << 24, 2));
    EXPECT(!ru_conn_token_valid(&host.conns, token - (1ULL << 32), 2));
    EXPECT(!ru_conn_token_valid(&host.conns, ru_token_pack(0, 0, conn->generation), 2)); /* UDP */
    EXPECT(!ru_conn_token_valid(&host.conns, UINT64_MAX, 2));

    ru_conn_close(&host.conns, index, RU_CLOSED_RESET, host.now_ns);
    conn->fd = -1;
    ru_conn_count_closed(&host.conns, index);
    expect_laws(&host);
    EXPECT_EQUAL(host.counters.tcp_in_flight, 1);
    EXPECT(ru_conn_token_valid(&host.conns, token, 2));
    conn->with_worker = false; /* it has come back */
    ru_conn_release(&host.conns, index);
    EXPECT_EQUAL(host.counters.tcp_dropped_peer_gone, 1);
    EXPECT(!ru_conn_token_valid(&host.conns, token, 2));
    host_close(&host);
}

/* ---- blocks ---- */

/* Where a body of each size lies, and that its memory is taken after the header only. */
static void test_body_memory_by_size(void)
{
    static const struct {
        uint16_t body_size;
        uint32_t small, large; /* blocks */
    } cases[] = {{0, 0, 0},    {1, 0, 0},    {256, 0, 0},  {257, 1, 0},
                 {2048, 1, 0}, {2049, 0, 1}, {65535, 0, 1}};
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t header[RU_HEADER_LARGE];
        uint32_t index = host_accept(&host);
        (void)native_header(header, 0, NATIVE_WORKER, cases[i].body_size, 0);
        EXPECT_EQUAL(host_feed(&host, index, header, 31), RU_CONN_NOTHING);
        EXPECT_EQUAL(host.blocks.free_count[0], config.small_blocks);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks);
        (void)host_feed(&host, index, header + RU_HEADER_SMALL - 1, 1);
        EXPECT_EQUAL(host.blocks.free_count[0], config.small_blocks - cases[i].small);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks - cases[i].large);
        host_hang_up(&host, index);
    }
    host_close(&host);
}

/* Whoever waits for a large block does not hold up those that a small one serves. */
static void test_waiting_is_by_class(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.large_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), second = host_accept(&host), third = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 60000), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, second, 60000), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(host_announce(&host, third, 300), RU_CONN_NOTHING);
    host_hang_up(&host, first);
    host_hang_up(&host, second);
    host_hang_up(&host, third);
    host_close(&host);
}

/* One block, four requests: each waits its turn, a newcomer behind those who wait already. */
static void test_waiting_for_blocks_is_fair(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), second = host_accept(&host);
    uint32_t third = host_accept(&host), fourth = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 300), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, second, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, second, host.now_ns), RU_CONN_AWAIT_BLOCK);
    host_hang_up(&host, first);
    EXPECT_EQUAL(host.blocks.free_count[0], 1);
    EXPECT_EQUAL(host_announce(&host, third, 2048), RU_CONN_AWAIT_BLOCK); /* though one is free */
    EXPECT_EQUAL(host_announce(&host, fourth, 256), RU_CONN_NOTHING);     /* needs none */
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 2);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, second, host.now_ns), RU_CONN_NOTHING);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, third, host.now_ns), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(host_body(&host, second, 300), RU_CONN_QUEUE);
    host_hang_up(&host, second);
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, third, host.now_ns), RU_CONN_NOTHING);
    EXPECT_EQUAL(host.conns.waiting_counts[RU_BLOCK_SMALL], 0);
    EXPECT_EQUAL(host_body(&host, third, 2048), RU_CONN_QUEUE);
    host_hang_up(&host, third);
    host_hang_up(&host, fourth);
    host_close(&host);
}

/* Whoever stops waiting no longer holds newcomers up. */
static void test_a_waiter_that_leaves(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t first = host_accept(&host), waiter = host_accept(&host), last = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, first, 300), RU_CONN_NOTHING);
    EXPECT_EQUAL(host_announce(&host, waiter, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_EQUAL(ru_conn_end_of_stream(&host.conns, waiter, host.now_ns), RU_CONN_CLOSE);
    EXPECT_EQUAL(host_conn(&host, waiter)->reason, RU_CLOSED_EOF);
    host_release(&host, waiter);
    host_hang_up(&host, first);
    EXPECT_EQUAL(host_announce(&host, last, 300), RU_CONN_NOTHING);
    host_hang_up(&host, last);
    host_close(&host);
}

/* ---- writing ---- */

/* Send a reply of `size` bytes in portions of `portion`; the action of the last. */
static enum ru_conn_action host_send(struct host *host, uint32_t index, uint32_t size,
                                     uint32_t portion)
{
    uint32_t left = size, unsent = 0;
    const uint8_t *start = ru_conn_unsent(&host->conns, index, &unsent);
    for (;;) {
        EXPECT(ru_conn_unsent(&host->conns, index, &unsent) == start + (size - left));
        EXPECT_EQUAL(unsent, left);
        uint32_t sent = portion < left ? portion : left;
        enum ru_conn_action action = ru_conn_sent(&host->conns, index, (int32_t)sent, host->now_ns);
        left -= sent;
        expect_laws(host);
        if (left == 0)
            return action;
        EXPECT_EQUAL(action, RU_CONN_SEND);
    }
}

static void test_pitfall_3_6_partial_sends_of_every_size(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    for (uint32_t portion = 1; portion <= RU_INLINE_SIZE; portion++) {
        EXPECT_EQUAL(host_announce(&host, index, 0), RU_CONN_QUEUE);
        EXPECT_EQUAL(ru_conn_replied(&host.conns, index, RU_NONE, RU_INLINE_SIZE, host.now_ns),
                     RU_CONN_SEND);
        EXPECT_EQUAL(host_send(&host, index, RU_INLINE_SIZE, portion), RU_CONN_NEXT);
    }
    EXPECT_EQUAL(host.counters.tcp_answered, RU_INLINE_SIZE);
    host_hang_up(&host, index);
    host_close(&host);
}

/* A reply in a block of its own, and one in the block of the body: each comes back once. */
static void test_replies_in_blocks(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    for (uint32_t own = 0; own <= 1; own++) {
        EXPECT_EQUAL(host_announce(&host, index, 60000), RU_CONN_NOTHING);
        EXPECT_EQUAL(host_body(&host, index, 60000), RU_CONN_QUEUE);
        uint32_t block = host_conn(&host, index)->body_block;
        if (own)
            block = ru_block_acquire(&host.blocks, RU_BLOCK_LARGE, host.node.arena.slots + index);
        EXPECT_EQUAL(ru_conn_replied(&host.conns, index, block, RU_REPLY_MAX, host.now_ns),
                     RU_CONN_SEND);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks - 1 - own);
        EXPECT_EQUAL(host_send(&host, index, RU_REPLY_MAX, 1777), RU_CONN_NEXT);
        EXPECT_EQUAL(host.blocks.free_count[1], config.large_blocks);
    }
    host_hang_up(&host, index);
    host_close(&host);
}

static void test_a_send_that_fails(void)
{
    static const int32_t results[] = {0, -EPIPE, -ECONNRESET};
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t index = host_conn_in(&host, RU_CONN_WRITE);
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 10, host.now_ns), RU_CONN_SEND);
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, results[i], host.now_ns), RU_CONN_CLOSE);
        EXPECT_EQUAL(host_conn(&host, index)->reason, RU_CLOSED_RESET);
        host_release(&host, index);
    }
    EXPECT_EQUAL(host.counters.tcp_dropped_reset, 3);
    host_close(&host);
}

/* Refused by a full slow lane: answered, and the connection goes on. Refused by its header: the
 * body is never read, so the connection ends. */
static void test_what_ends_a_persistent_connection(void)
{
    struct ru_config config = native_config();
    struct host host;
    host_open(&host, &config);
    host.node.front.identity.body_bytes_max = 100;
    uint32_t index = host_accept(&host), size;
    EXPECT_EQUAL(host_announce(&host, index, 0), RU_CONN_QUEUE);
    EXPECT_EQUAL(ru_conn_refuse(&host.conns, index, RU_STATUS_REQUEST_RATE, host.now_ns),
                 RU_CONN_SEND);
    EXPECT_EQUAL(ru_conn_unsent(&host.conns, index, &size)[2], 160);
    EXPECT_EQUAL(host_send(&host, index, size, 32), RU_CONN_NEXT);
    EXPECT_EQUAL(host_announce(&host, index, 101), RU_CONN_SEND);
    EXPECT_EQUAL(ru_conn_unsent(&host.conns, index, &size)[2], 16);
    EXPECT_EQUAL(host_send(&host, index, size, 32), RU_CONN_END);
    EXPECT_EQUAL(host_conn(&host, index)->state, RU_CONN_LINGER);
    ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
    host_release(&host, index);
    host_close(&host);
}

/* The last reply has been sent: the peer is heard out if the reply is long or if more is known to
 * come, unless it has ended already. */
static void test_what_follows_the_last_reply(void)
{
    static const struct {
        uint32_t size;
        bool more_expected, refused, eof, lingers;
    } cases[] = {
        {.size = 32},
        {.size = RU_INLINE_SIZE},
        {.size = 32, .more_expected = true, .lingers = true},
        {.size = 32, .refused = true, .lingers = true},
        {.size = RU_INLINE_SIZE + 1, .lingers = true},
        {.size = RU_REPLY_MAX, .more_expected = true, .eof = true},
    };
    struct ru_config config = native_config();
    config.tcp_persistent = 0;
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host host;
        host_open(&host, &config);
        uint32_t index = host_conn_in(&host, RU_CONN_PROCESSING);
        struct ru_conn *conn = host_conn(&host, index);
        uint32_t block =
            ru_block_acquire(&host.blocks, RU_BLOCK_LARGE, host.node.arena.slots + index);
        (void)ru_conn_replied(&host.conns, index, block, cases[i].size, host.now_ns);
        conn->more_expected = cases[i].more_expected;
        conn->refused = cases[i].refused;
        conn->eof = cases[i].eof;
        bool lingers = cases[i].lingers;
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, (int32_t)cases[i].size, host.now_ns),
                     lingers ? RU_CONN_END : RU_CONN_CLOSE);
        EXPECT_EQUAL(conn->state, lingers ? RU_CONN_LINGER : RU_CONN_DONE);
        EXPECT_EQUAL(host.counters.tcp_answered, 1);
        EXPECT_EQUAL(host.counters.tcp_in_flight, 0);
        EXPECT_EQUAL(host.counters.connections_open, 1);
        if (lingers)
            ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
        host_release(&host, index);
        EXPECT_EQUAL(host.counters.connections_closed_done, 1);
        host_close(&host);
    }
}

/* ---- deadlines ---- */

#define EXPECT_DEADLINE(index, want_ns, want_reason)                                               \
    do {                                                                                           \
        enum ru_conn_reason reason = RU_CLOSED_REASONS;                                            \
        EXPECT_EQUAL(ru_conn_deadline_ns(&host.conns, index, &reason), want_ns);                   \
        EXPECT_EQUAL(reason, want_reason);                                                         \
    } while (0)

/* native_config(): progress 2 s; absolute header 5, body 15, write 14; idle 60. */
static void test_deadlines_of_a_slow_peer(void)
{
    struct ru_config config = native_config();
    struct host host;
    uint8_t bytes[RU_HEADER_LARGE];
    (void)native_header(bytes, 0, NATIVE_WORKER, 300, 0);
    host_open(&host, &config);
    uint32_t index = host_accept(&host);
    uint64_t start_ns = host.now_ns;
    EXPECT_DEADLINE(index, start_ns + 2000 * MS, RU_CLOSED_HEADER_TIMEOUT);
    for (uint32_t i = 0; i < 31; i++) { /* a byte every 150 ms: progress, but the end is fixed */
        host.now_ns += 150 * MS;
        EXPECT_EQUAL(host_feed(&host, index, bytes + i, 1), RU_CONN_NOTHING);
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 150 * MS + 5000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns,
                        RU_CLOSED_HEADER_TIMEOUT);
    }
    EXPECT_EQUAL(host_feed(&host, index, bytes + RU_HEADER_SMALL - 1, 1), RU_CONN_NOTHING);
    start_ns = host.now_ns;
    for (uint32_t i = 0; i < 299; i++) {
        host.now_ns += 50 * MS;
        EXPECT_EQUAL(host_body(&host, index, 1), RU_CONN_NOTHING);
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 15000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns, RU_CLOSED_BODY_TIMEOUT);
    }
    ru_conn_close(&host.conns, index, RU_CLOSED_BODY_TIMEOUT, host.now_ns);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS);
    host_release(&host, index);
    EXPECT_EQUAL(host.counters.tcp_dropped_timeout, 1);
    EXPECT_EQUAL(host.counters.connections_closed_body_timeout, 1);
    host_close(&host);
}

static void test_deadlines_of_the_other_states(void)
{
    struct ru_config config = native_config();
    struct host host;
    config.small_blocks = 1;
    host_open(&host, &config);
    uint32_t holder = host_conn_in(&host, RU_CONN_READ_BODY), index = host_accept(&host);
    EXPECT_EQUAL(host_announce(&host, index, 300), RU_CONN_AWAIT_BLOCK);
    EXPECT_DEADLINE(index, host.now_ns + 15000 * MS, RU_CLOSED_BODY_TIMEOUT);
    host_hang_up(&host, holder);
    host.now_ns += 9000 * MS;
    EXPECT_EQUAL(ru_conn_retry_block(&host.conns, index, host.now_ns), RU_CONN_NOTHING);
    EXPECT_DEADLINE(index, host.now_ns + 2000 * MS, RU_CLOSED_BODY_TIMEOUT);
    EXPECT_EQUAL(host_body(&host, index, 300), RU_CONN_QUEUE);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS); /* a handler takes what it takes */

    host.now_ns += 99000 * MS;
    (void)ru_conn_replied(&host.conns, index, RU_NONE, 100, host.now_ns);
    uint64_t start_ns = host.now_ns;
    for (uint32_t i = 0; i < 90; i++) {
        uint64_t progress_ns = host.now_ns + 2000 * MS, end_ns = start_ns + 14000 * MS;
        EXPECT_DEADLINE(index, progress_ns < end_ns ? progress_ns : end_ns,
                        RU_CLOSED_WRITE_TIMEOUT);
        host.now_ns += 150 * MS;
        EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 1, host.now_ns), RU_CONN_SEND);
    }
    EXPECT_EQUAL(ru_conn_sent(&host.conns, index, 10, host.now_ns), RU_CONN_NEXT);
    EXPECT_DEADLINE(index, host.now_ns + 60000 * MS, RU_CLOSED_IDLE_TIMEOUT);

    host.now_ns += 59000 * MS; /* the next request's header has its own time */
    EXPECT_EQUAL(host_feed(&host, index, (const uint8_t *)"\1", 1), RU_CONN_NOTHING);
    EXPECT_DEADLINE(index, host.now_ns + 2000 * MS, RU_CLOSED_HEADER_TIMEOUT);
    host_hang_up(&host, index);
    EXPECT_DEADLINE(index, UINT64_MAX, RU_CLOSED_REASONS);

    index = host_conn_in(&host, RU_CONN_LINGER);
    EXPECT_DEADLINE(index, host.now_ns + RU_LINGER_NS, RU_CLOSED_DONE);
    ru_conn_close(&host.conns, index, RU_CLOSED_DONE, host.now_ns);
    host_release(&host, index);
    host_close(&host);
}

/* What each reason counts as, with a request open. */
static void test_every_reason_is_counted(void)
{
    struct ru_config config = native_config();
    for (enum ru_conn_reason reason = 0; reason < RU_CLOSED_REASONS; reason++) {
        struct host host;
        host_open(&host, &config);
        uint32_t index = host_conn_in(&host, RU_CONN_READ_BODY);
        ru_conn_close(&host.conns, index, reason, host.now_ns);
        host_release(&host, index);
        struct ru_counters *c = &host.counters;
        const uint64_t closed[RU_CLOSED_REASONS] = {
            c->connections_closed_done,         c->connections_closed_eof,
            c->connections_closed_reset,        c->connections_closed_header_timeout,
            c->connections_closed_body_timeout, c->connections_closed_write_timeout,
            c->connections_closed_idle_timeout, c->connections_closed_early,
            c->connections_closed_drain,        c->connections_closed_handed_over};
        EXPECT_EQUAL(closed[reason], 1);
        host_close(&host);
    }
}

int main(void)
{
    RUN(test_pieces_do_not_matter);
    RUN(test_end_of_stream_everywhere);
    RUN(test_every_call_in_every_state);
    RUN(test_release_needs_everybody_gone);
    RUN(test_other_misuse);
    RUN(test_nothing_of_the_last_connection_survives);
    RUN(test_as_many_connections_as_configured);
    RUN(test_an_orphan_is_the_workers);
    RUN(test_body_memory_by_size);
    RUN(test_waiting_is_by_class);
    RUN(test_waiting_for_blocks_is_fair);
    RUN(test_a_waiter_that_leaves);
    RUN(test_pitfall_3_6_partial_sends_of_every_size);
    RUN(test_replies_in_blocks);
    RUN(test_a_send_that_fails);
    RUN(test_what_ends_a_persistent_connection);
    RUN(test_what_follows_the_last_reply);
    RUN(test_deadlines_of_a_slow_peer);
    RUN(test_deadlines_of_the_other_states);
    RUN(test_every_reason_is_counted);
    return native_finish();
}
