/* peers.c: what simulated peers send, and what they accept as an answer. */
#include "life.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PEER_RAIDA_ID 14
#define PEER_COIN_ID 6
#define PEER_CONNECTED 0x40000000U /* in names of TCP peers, but for RAIDA */
#define PEER_NETWORK 256           /* addresses of a network */

/* ---- requests ---- */

static uint8_t peer_byte(uint32_t name, uint16_t serial, uint32_t at)
{
    return (uint8_t)(name * 31 + serial * 7U + at * 13);
}

uint8_t life_reply_byte(uint32_t name, uint16_t serial, uint32_t at, uint32_t size)
{
    if (at + RU_TERMINATOR_SIZE >= size)
        return 0x3E;
    if (at < 4)
        return (uint8_t)(name >> 8 * at);
    return at < 6 ? (uint8_t)(serial >> 8 * (at - 4)) : (uint8_t)~peer_byte(name, serial, at);
}

bool life_coin_an(const uint8_t *coin, uint8_t *an)
{
    for (uint32_t i = 0; i < RU_AN_SIZE; i++)
        an[i] = (uint8_t)(coin[i % RU_COIN_NAME_SIZE] * 59 + i * 17);
    return coin[RU_COIN_DENOMINATION_AT] % 8 != 7;
}

static void peer_put_u16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void peer_header(const struct life_request *request, uint8_t *out)
{
    bool small = request->header_size == RU_HEADER_SMALL;
    memset(out, (int)sim_below(256), request->header_size);
    out[RU_REQUEST_VERSION_AT] = RU_REQUEST_VERSION;
    out[RU_REQUEST_SPLIT_AT] = 0;
    out[RU_REQUEST_RAIDA_AT] = PEER_RAIDA_ID;
    out[RU_REQUEST_SHARD_AT] = RU_SHARDS_COUNT - 1;
    peer_put_u16(out + RU_REQUEST_GROUP_AT, request->command);
    peer_put_u16(out + RU_REQUEST_COIN_ID_AT, PEER_COIN_ID);
    out[RU_REQUEST_ENCRYPTION_AT] = request->encryption;
    peer_put_u16(out + (small ? RU_REQUEST_SMALL_BODY_SIZE_AT : RU_REQUEST_LARGE_BODY_SIZE_AT),
                 request->body_size);
    peer_put_u16(out + (small ? RU_REQUEST_SMALL_ECHO_AT : RU_REQUEST_LARGE_ECHO_AT),
                 request->serial);
}

/* The key of a whole request; it is not proved if the node cannot know it. */
static void peer_key(struct life_request *request)
{
    const uint8_t *names[RU_SEAL_COINS_MAX];
    uint8_t an[RU_AN_SIZE];
    (void)ru_seal_coins(request->header, names);
    request->key.proved = life_coin_an(names[0], an);
    memcpy(request->key.key, an, sizeof(an));
    if (request->header_size == RU_HEADER_LARGE)
        (void)SHA256(an, sizeof(an), request->key.key);
}

/* Encrypt a whole body that is in the clear. */
static void peer_seal(struct life *life, struct life_request *request, uint8_t *out)
{
    bool small = request->header_size == RU_HEADER_SMALL;
    uint32_t least = small ? RU_TERMINATOR_SIZE : RU_SEALED_BODY_MIN;
    bool known;
    peer_key(request);
    known = request->key.proved;
    request->key.proved = true;
    check(ru_seal_reply(life->seal, request->header, &request->key,
                        request->header + RU_REQUEST_LARGE_NONCE_AT, out,
                        request->body_size - least) == 0,
          "sealing", request->name);
    if (!small && request->body_size == least) /* a reply without a payload has no HMAC */
        request->spoilt = true;
    for (uint32_t i = 0; i < RU_CHALLENGE_SIZE; i++)
        request->challenge[i] ^= request->key.key[i];
    request->key.proved = known && !request->spoilt;
}

static void peer_body(struct life *life, struct life_request *request, uint8_t *out)
{
    uint32_t size = request->body_size;
    bool small = request->header_size == RU_HEADER_SMALL;
    for (uint32_t i = 0; i < size; i++)
        out[i] = peer_byte(request->name, request->serial, i);
    if (size < (small ? RU_PLAIN_BODY_MIN : RU_SEALED_BODY_MIN))
        return;
    uint32_t crc = ru_body_crc32(out, RU_CHALLENGE_RANDOM_SIZE);
    for (uint32_t i = 0; small && i < 4; i++)
        out[RU_CHALLENGE_CRC_AT + i] = (uint8_t)(crc >> (24 - 8 * i));
    memcpy(request->challenge, out, RU_CHALLENGE_SIZE);
    memset(out + size - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
    request->spoilt = sim_chance(12);
    if (request->encryption != 0)
        peer_seal(life, request, out);
    uint32_t at = request->encryption == 0 || sim_chance(128) ? size - 1 : 3;
    out[at] = (uint8_t)(out[at] + request->spoilt);
}

static uint32_t peer_body_size(bool stream)
{
    static const uint32_t sizes[] = {0, 18, 200, 256, 600, 2048, 2100, 9000, 65535};
    uint32_t most = sizes[sim_below(stream ? (sim_chance(16) ? 9 : 8) : 5)];
    return sim_chance(128) || most < RU_PLAIN_BODY_MIN
               ? most
               : RU_PLAIN_BODY_MIN + sim_below(most - RU_PLAIN_BODY_MIN + 1);
}

/* Write a request of `name` to `out`, which has room for the longest. */
static void peer_request(struct life *life, struct life_request *request, uint32_t name,
                         uint16_t serial, bool stream, uint8_t *out)
{
    static const uint16_t commands[] = {
        LIFE_WORKER,  LIFE_WORKER, LIFE_WORKER, LIFE_WRITE, LIFE_SLOW, LIFE_ECHO, LIFE_ECHO,
        LIFE_UNKNOWN, LIFE_READ,   LIFE_READ,   LIFE_PUT,   LIFE_PUT,  LIFE_GUESS};
    static const uint8_t encryptions[] = {0, 0, 0, 0, 0, 0, 1, 4};
    const bool raida = life_is_raida(name); /* they only ask for tickets, and in the clear */
    *request = (struct life_request){.name = name, .serial = serial};
    request->command = raida ? LIFE_GUESS : commands[sim_below(13)];
    request->encryption = raida ? 0 : encryptions[sim_below(8)];
    request->header_size =
        request->encryption <= RU_SMALL_TYPE_MAX ? RU_HEADER_SMALL : RU_HEADER_LARGE;
    request->body_size = (uint16_t)peer_body_size(stream);
    request->size = (uint32_t)request->header_size + request->body_size;
    peer_header(request, out);
    memcpy(request->header, out, request->header_size);
    peer_body(life, request, out + request->header_size);
}

static void peer_vote(struct life_request *request, uint32_t name, uint8_t *out)
{
    *request = (struct life_request){.name = name, .vote = true, .size = RU_VOTE_SIZE};
    out[RU_VOTE_FIRST_AT] = RU_VOTE_FIRST_BYTE;
    for (uint32_t i = 1; i < RU_VOTE_SIZE; i++)
        out[i] = peer_byte(name, 0, i);
}

struct life_request *life_request_of(struct life *life, uint32_t name, uint16_t serial)
{
    if (name < life->names)
        return &life->datagrams[name];
    for (uint32_t i = 0; i < SIM_PEERS_MAX; i++)
        for (uint32_t j = 0; life->clients[i].name == name && j < LIFE_REQUESTS_MAX; j++)
            if (life->clients[i].requests[j].serial == serial)
                return &life->clients[i].requests[j];
    return NULL;
}

/* ---- replies ---- */

static uint32_t peer_reply_header_size(const struct life_request *request)
{
    return request->command == LIFE_UNKNOWN ? RU_HEADER_SMALL : request->header_size;
}

/* A small header shows the challenge that was read, of an encrypted request once its key was shown;
 * a status may also come before. */
static void peer_check_challenge(const struct life_request *request, const uint8_t *reply)
{
    static const uint8_t none[RU_CHALLENGE_SIZE];
    const uint8_t *field = reply + RU_REPLY_SMALL_CHALLENGE_AT;
    bool shown = memcmp(field, request->challenge, RU_CHALLENGE_SIZE) == 0;
    bool proves = request->encryption == 0 || request->key.proved;
    if (proves && reply[RU_REPLY_STATUS_AT] == RU_STATUS_SUCCESS && request->body_size > 0)
        check(shown, "another request's challenge", request->name);
    proves &= request->encryption == 0 || reply[RU_REPLY_STATUS_AT] != RU_STATUS_REQUEST_RATE;
    check((proves && shown) || memcmp(field, none, RU_CHALLENGE_SIZE) == 0,
          "a challenge that was not earned", request->name);
}

/* Whether the status of a request that was executed in C says what has become of it. */
static void peer_check_native(struct life *life, const struct life_request *request, uint8_t status)
{
    const struct ru_command *row = life->engine->natives[request->command];
    const bool success = status == RU_STATUS_SUCCESS;
    const bool wrong = status == RU_STATUS_NO_TICKET_FOUND;
    if (!row)
        return;
    check(request->changed == (row->writes && success ? life_changes(request) : 0),
          "other changes than its reply says", status);
    check(!request->unwritten || status == RU_STATUS_FILESYSTEM, "a change that was not written",
          status);
    check(!request->settled || success || status == RU_STATUS_MEMORY, "a ticket for nobody",
          status);
    check(!success || row->guess == 0 || !life_guesses_wrong(request), "a wrong guess", status);
    if (!life_is_raida(request->name)) {
        life->native.told_wrong += wrong;
        return;
    }
    check(status != RU_STATUS_REQUEST_RATE || life->config.queue_age_max_ms > 0,
          "a RAIDA is limited", request->name);
    life->native.raida_wrong += wrong;
}

/* Statuses of native commands alone. */
static bool peer_may_be_native(const struct life *life, const struct life_request *request,
                               uint8_t status)
{
    const struct ru_command *row = life->engine->natives[request->command];
    if (!row)
        return false;
    if (status == RU_STATUS_NO_TICKET_FOUND)
        return row->guess != 0 && life_guesses_wrong(request);
    if (status == RU_STATUS_EMPTY_REQUEST)
        return row->needs_body && request->body_size == 0;
    return status == RU_STATUS_FILESYSTEM;
}

/* Whether a request may be refused with a status that only encrypted ones get. */
static bool peer_may_be_refused(const struct life_request *request, uint8_t status)
{
    static const uint8_t refusals[] = {
        RU_STATUS_KEY_COIN_NOT_FOUND, RU_STATUS_EOF, RU_STATUS_ENCRYPTION,
        RU_STATUS_EMPTY_REQUEST,      RU_STATUS_CRC, RU_STATUS_HMAC};
    if (request->encryption == 0 || !memchr(refusals, status, sizeof(refusals)))
        return false;
    bool unknown = status == RU_STATUS_KEY_COIN_NOT_FOUND || status == RU_STATUS_ENCRYPTION;
    return unknown || !request->key.proved; /* some workers know no coins */
}

/* A whole reply header; the size of the body that follows. */
static uint32_t peer_check_header(struct life *life, const struct life_request *request,
                                  const uint8_t *reply)
{
    uint8_t status = reply[RU_REPLY_STATUS_AT];
    const uint8_t *size = reply + RU_REPLY_BODY_SIZE_AT;
    uint32_t body_size = (uint32_t)size[0] << 16 | (uint32_t)size[1] << 8 | size[2];
    bool small = request->header_size == RU_HEADER_SMALL;
    check(reply[RU_REPLY_RAIDA_AT] == PEER_RAIDA_ID, "reply of another server", request->name);
    if (request->command == LIFE_UNKNOWN) {
        check(status == RU_STATUS_COMMAND && body_size == 0, "reply to an unknown command",
              request->name);
        return 0;
    }
    const uint8_t *echo = reply + (small ? RU_REPLY_SMALL_ECHO_AT : RU_REPLY_LARGE_ECHO_AT);
    check(reply[RU_REPLY_GROUP_AT] == request->command >> 8, "reply from another group",
          request->name);
    check((echo[0] << 8 | echo[1]) == request->serial, "reply to another request", request->name);
    bool answered = status == RU_STATUS_SUCCESS || peer_may_be_refused(request, status) ||
                    peer_may_be_native(life, request, status);
    check(answered || status == RU_STATUS_PACKET_LENGTH || status == RU_STATUS_NOT_IMPLEMENTED ||
              status == RU_STATUS_REQUEST_RATE || status == RU_STATUS_INTERNAL ||
              status == RU_STATUS_MEMORY || (status == RU_STATUS_EOF && request->spoilt),
          "status", status);
    peer_check_native(life, request, status);
    check(body_size == 0 || status == RU_STATUS_SUCCESS, "body", body_size);
    check(status != RU_STATUS_SUCCESS || request->encryption == 0 || request->key.proved ||
              (request->command == LIFE_ECHO && request->body_size == 0),
          "success without a key", request->name);
    check(body_size == 0 || request->encryption == 0 || request->key.proved, "a body without a key",
          request->name);
    if (small)
        peer_check_challenge(request, reply);
    return body_size;
}

/* `count` bytes of a reply's body of `size` bytes, from `at` on. */
static void peer_check_body(struct life *life, const struct life_request *request,
                            const uint8_t *header, const uint8_t *bytes, uint32_t at,
                            uint32_t count, uint32_t size)
{
    static uint8_t expected[RU_REPLY_MAX];
    bool mac = request->encryption > RU_SMALL_TYPE_MAX;
    if (count == 0)
        return;
    uint32_t clear = size - (mac ? RU_HMAC_SIZE : 0); /* with the terminator */
    for (uint32_t i = 0; i < clear; i++)
        expected[i] = life_reply_byte(request->name, request->serial, i, clear);
    if (request->encryption != 0)
        check(ru_seal_reply(life->seal, request->header, &request->key,
                            header + RU_REPLY_LARGE_NONCE_AT, expected,
                            clear - RU_TERMINATOR_SIZE) == 0,
              "sealing", request->name);
    memset(expected + size - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
    if (memcmp(bytes, expected + at, count) != 0)
        sim_fail("another reply's bytes", at);
}

void life_take_datagram(void *self, uint32_t name, const uint8_t *bytes, uint32_t size)
{
    struct life *life = self;
    check(name < life->names, "datagram to nobody", name);
    struct life_request *request = &life->datagrams[name];
    check(!request->used, "a second reply", name);
    check(!request->silent, "reply to what is none", name);
    request->used = true;
    if (request->vote) {
        check(size == RU_VOTE_REPLY_SIZE && bytes[RU_VOTE_REPLY_VERDICT_AT] == 0, "vote", size);
        for (uint32_t i = 1; i < size; i++)
            check(bytes[i] == peer_byte(name, 0, RU_ROOTS_SIZE + i), "another vote", name);
        return;
    }
    uint32_t header_size = peer_reply_header_size(request);
    check(size >= header_size, "short reply", size);
    uint32_t body_size = peer_check_header(life, request, bytes);
    check(size == header_size + body_size, "length of a reply", size);
    peer_check_body(life, request, bytes, bytes + header_size, 0, body_size, body_size);
}

/* Some bytes of a stream, within one reply; how many belong to it. */
static uint32_t peer_take_part(struct life *life, struct life_client *client, const uint8_t *bytes,
                               uint32_t size)
{
    check(client->answered < client->requests_count, "more replies than requests", client->name);
    struct life_request *request = &client->requests[client->answered];
    struct life_reply *reply = &client->reply;
    uint32_t header_size = peer_reply_header_size(request);
    uint32_t part;
    if (reply->have < header_size) {
        part = header_size - reply->have < size ? header_size - reply->have : size;
        memcpy(reply->header + reply->have, bytes, part);
        if (reply->have + part == header_size)
            reply->body_size = peer_check_header(life, request, reply->header);
    } else {
        uint32_t at = reply->have - header_size;
        part = reply->body_size - at < size ? reply->body_size - at : size;
        peer_check_body(life, request, reply->header, bytes, at, part, reply->body_size);
    }
    reply->have += part;
    if (reply->have >= header_size && reply->have == header_size + reply->body_size) {
        client->answered++;
        *reply = (struct life_reply){0};
    }
    return part;
}

void life_take_stream(void *self, uint32_t peer, const uint8_t *bytes, uint32_t size)
{
    struct life *life = self;
    struct life_client *client = &life->clients[peer];
    for (uint32_t at = 0; at < size;)
        at += peer_take_part(life, client, bytes + at, size - at);
}

void life_take_close(void *self, uint32_t peer, int fd, bool reset)
{
    struct life *life = self;
    const struct life_client *client = &life->clients[peer];
    if (reset)
        return; /* refused before it became a connection */
    for (uint32_t i = 0; i < life->engine->conns.capacity; i++) {
        const struct ru_conn *conn = &life->engine->conns.conns[i];
        if (conn->fd != fd || conn->state != RU_CONN_DONE)
            continue;
        check(conn->reason != RU_CLOSED_DONE || client->reply.have == 0, "half a reply",
              client->name);
        check(conn->reason != RU_CLOSED_DONE || client->answered > 0 || client->ended,
              "closed without an answer", client->name);
        check(conn->reason != RU_CLOSED_EOF || client->ended, "no end was sent", client->name);
        return;
    }
    sim_fail("closes what is no connection", (uint64_t)fd);
}

/* ---- acting ---- */

/* Also of a connection that another process passes on. */
static bool peer_arrive(struct life *life, uint32_t listener, uint32_t peer, uint32_t name)
{
    if (!sim_chance(32))
        return sim_connect(listener, peer, name);
    int fd = sim_other_passes(peer, name);
    if (fd < 0)
        return false;
    life->adopted++;
    check(ru_engine_adopt(life->engine, listener, fd) == 0, "connection not taken", name);
    return true;
}

/* IPv4 as IPv6. */
static void peer_address(uint32_t name, uint8_t *address)
{
    address[10] = address[11] = 0xFF;
    peer_put_u16(address + 12, name >> 16);
    peer_put_u16(address + 14, name & 0xFFFF);
}

/* Another one for each request of a peer. */
static uint16_t peer_serial(uint32_t number)
{
    return (uint16_t)(sim_below(65536 / LIFE_REQUESTS_MAX) * LIFE_REQUESTS_MAX + number);
}

/* Publish the addresses of RAIDA, and those of the latest datagrams, which prove nothing. */
static void peer_publish(struct life *life)
{
    uint8_t addresses[RU_RAIDA_ADDRESSES_MAX][16] = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < SIM_PEERS_MAX; i++)
        if (life->clients[i].used && life_is_raida(life->clients[i].name))
            peer_address(life->clients[i].name, addresses[count++]);
    for (uint32_t name = life->names; name > 0 && count < RU_RAIDA_ADDRESSES_MAX;)
        peer_address(--name, addresses[count++]);
    ru_engine_set_raida(life->engine, addresses[0], count);
}

static void peer_connect(struct life *life, uint32_t peer)
{
    static const uint32_t reads[] = {0, 40, 1000, 1U << 20, 1U << 20, 1U << 20};
    static uint8_t bytes[RU_HEADER_LARGE + 65536];
    struct life_client *client = &life->clients[peer];
    uint32_t name =
        sim_chance(32) ? life->names * PEER_NETWORK | LIFE_RAIDA : life->names | PEER_CONNECTED;
    if (!sim_peer_gone(peer) || life->names >= LIFE_NAMES_MAX ||
        !peer_arrive(life, sim_below(life->config.listeners_count), peer, name))
        return;
    life->names++;
    free(client->script);
    *client = (struct life_client){.used = true,
                                   .name = name,
                                   .chunk_max = 1U << sim_below(14),
                                   .pace = 32 + sim_below(224),
                                   .reads = reads[sim_below(6)],
                                   .requests_count = 1 + sim_below(LIFE_REQUESTS_MAX)};
    for (uint32_t i = 0; i < client->requests_count; i++) {
        peer_request(life, &client->requests[i], name, peer_serial(i), true, bytes);
        client->script = realloc(client->script, client->size + client->requests[i].size);
        if (!client->script)
            abort();
        memcpy(client->script + client->size, bytes, client->requests[i].size);
        client->size += client->requests[i].size;
    }
    if (life_is_raida(name))
        peer_publish(life);
    client->ends_at = sim_chance(96)   ? client->size
                      : sim_chance(24) ? sim_below(client->size)
                                       : RU_NONE;
    client->resets_at = sim_chance(48) ? sim_below(client->size + 1) : RU_NONE;
}

static void peer_act(struct life_client *client, uint32_t peer)
{
    if (client->reset || sim_peer_gone(peer) || !sim_chance(client->pace))
        return;
    if (client->reads > 0)
        sim_stream_room(peer, 1 + sim_below(client->reads));
    uint32_t rest = client->size - client->sent;
    uint32_t part = 1 + sim_below(client->chunk_max);
    if (!client->ended && rest > 0)
        client->sent +=
            sim_stream_send(peer, client->script + client->sent, part < rest ? part : rest);
    if (client->sent >= client->resets_at && sim_chance(32)) {
        client->reset = true;
        sim_stream_reset(peer);
    } else if (client->sent >= client->ends_at && !client->ended) {
        client->ended = true;
        sim_stream_end(peer);
    }
}

static void peer_datagram(struct life *life)
{
    static uint8_t bytes[RU_HEADER_LARGE + 65536];
    if (life->names >= LIFE_NAMES_MAX)
        return;
    uint32_t name = life->names++;
    struct life_request *request = &life->datagrams[name];
    uint32_t kind = sim_below(16);
    if (kind < 3) { /* empty, too short, another server's refusal */
        *request = (struct life_request){.name = name, .silent = true, .size = kind * 16};
        memset(bytes, 0, request->size);
        bytes[RU_REPLY_SMALL_FRAMES_AT + 1] = 1;
    } else if (kind < 6) {
        peer_vote(request, name, bytes);
    } else {
        peer_request(life, request, name, (uint16_t)sim_below(65536), false, bytes);
    }
    (void)sim_datagram_send(sim_below(life->config.listeners_count), name, bytes, request->size);
}

void life_peers_act(struct life *life)
{
    if (sim_chance(life->appetite))
        peer_datagram(life);
    if (sim_chance(life->appetite / 4))
        peer_connect(life, sim_below(SIM_PEERS_MAX));
    for (uint32_t i = 0; i < SIM_PEERS_MAX; i++)
        if (life->clients[i].used)
            peer_act(&life->clients[i], i);
}

void life_peers_begin(struct life *life)
{
    life->seal = ru_seal_create(life->engine->seals);
    check(life->seal != NULL, "no memory", 0);
}

void life_peers_end(struct life *life)
{
    for (uint32_t i = 0; i < SIM_PEERS_MAX; i++)
        free(life->clients[i].script);
}
