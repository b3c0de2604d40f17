/* test_conn_framing.c: TCP framing: whole, byte by byte, in random pieces. */
#include "conn_host.h"

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

int main(void)
{
    RUN(test_pieces_do_not_matter);
    RUN(test_end_of_stream_everywhere);
    return native_finish();
}
