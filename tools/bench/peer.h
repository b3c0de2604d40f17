/* peer.h: what the C benchmark peers share: the node's checks and answers, nothing else.
 *
 * Why: a comparison is fair only if every contender reads, checks and answers the same bytes.
 * Pure: bytes in, bytes out. Source: RAIDA wire protocol, header decisions 1-8, type 0 body
 * checks, echo, version and the integrity vote of a node without roots. Execution time is 0.
 */
#ifndef RAIDA_URING_TOOLS_BENCH_PEER_H
#define RAIDA_URING_TOOLS_BENCH_PEER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PEER_REQUEST_BYTES_MAX = 1440, /* UDP payload slot, and the longest TCP request taken */
    PEER_REPLY_BYTES_MAX = 64,
    PEER_VOTE_BYTES = 497,
    PEER_ROOTS_BYTES = 480,
    PEER_NONCE_BYTES = 16,
    PEER_COIN_ID = 6,
};

enum peer_status {
    PEER_INVALID_SPLIT_ID = 2,
    PEER_INVALID_RAIDA_ID = 3,
    PEER_INVALID_SHARD_ID = 4,
    PEER_INVALID_COMMAND_GROUP = 5,
    PEER_INVALID_COMMAND = 6,
    PEER_INVALID_COIN_ID = 7,
    PEER_INVALID_PACKET_LENGTH = 16,
    PEER_ENCRYPTION_COIN_NOT_FOUND = 25,
    PEER_INVALID_ENCRYPTION_CODE = 27,
    PEER_INVALID_EOF = 33,
    PEER_INVALID_ENCRYPTION = 34,
    PEER_INVALID_CRC = 37,
    PEER_SUCCESS = 250,
    PEER_INVALID_ROUTING = 255,
};

struct peer {
    uint8_t raida_id;
    uint32_t crc[4][256]; /* slice by 4: three table rounds for the 12 challenge bytes */
    uint8_t roots[PEER_ROOTS_BYTES];
};

static inline void peer_init(struct peer *peer, uint8_t raida_id)
{
    memset(peer, 0, sizeof *peer);
    peer->raida_id = raida_id;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        peer->crc[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 4; k++)
            peer->crc[k][i] = peer->crc[k - 1][i] >> 8 ^ peer->crc[0][peer->crc[k - 1][i] & 255];
}

static inline uint32_t peer_crc32_challenge(const struct peer *peer, const uint8_t *challenge)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (int i = 0; i < 12; i += 4) {
        uint32_t word;
        memcpy(&word, challenge + i, sizeof word); /* little-endian machines only, like the node */
        crc ^= word;
        crc = peer->crc[3][crc & 255] ^ peer->crc[2][crc >> 8 & 255] ^
              peer->crc[1][crc >> 16 & 255] ^ peer->crc[0][crc >> 24];
    }
    return ~crc;
}

static inline uint32_t peer_u16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 8 | bytes[1];
}

/* Bytes of the header that byte 16 announces. */
static inline size_t peer_header_bytes(const uint8_t *request)
{
    return request[16] <= 2 ? 32 : 48;
}

static inline size_t peer_body_bytes(const uint8_t *request)
{
    return peer_u16(request + (request[16] <= 2 ? 22 : 17));
}

/* Decisions 1-8, and 9 of a node without a store. PEER_SUCCESS when all pass. */
static inline enum peer_status peer_check_header(const struct peer *peer, const uint8_t *request)
{
    if (request[0] != 1)
        return PEER_INVALID_ROUTING;
    if (request[1] != 0)
        return PEER_INVALID_SPLIT_ID;
    if (request[2] != peer->raida_id)
        return PEER_INVALID_RAIDA_ID;
    if (request[4] > 15)
        return PEER_INVALID_COMMAND_GROUP;
    if (request[3] > 3)
        return PEER_INVALID_SHARD_ID;
    if (request[4] != 0 || request[5] > 1)
        return PEER_INVALID_COMMAND;
    if (peer_u16(request + 6) != PEER_COIN_ID)
        return PEER_INVALID_COIN_ID;
    switch (request[16]) {
    case 0:
        return PEER_SUCCESS;
    case 1:
    case 2:
        return PEER_INVALID_ENCRYPTION;
    case 4:
    case 5:
        return PEER_ENCRYPTION_COIN_NOT_FOUND;
    default:
        return PEER_INVALID_ENCRYPTION_CODE;
    }
}

static inline enum peer_status peer_check_body(const struct peer *peer, const uint8_t *body,
                                               size_t bytes)
{
    if (bytes < 2)
        return PEER_INVALID_PACKET_LENGTH;
    if (body[bytes - 2] != 0x3E || body[bytes - 1] != 0x3E)
        return PEER_INVALID_EOF;
    if (bytes < 18)
        return PEER_INVALID_PACKET_LENGTH;
    uint32_t crc = peer_crc32_challenge(peer, body);
    uint32_t claimed = peer_u16(body + 12) << 16 | peer_u16(body + 14);
    return crc == claimed ? PEER_SUCCESS : PEER_INVALID_CRC;
}

/* Reply header for `status`; what it repeats of the request depends on how far the checks came.
 * reply must not overlap request. */
static inline size_t peer_reply_header(const struct peer *peer, const uint8_t *request,
                                       enum peer_status status, uint8_t *reply)
{
    bool wide = status == PEER_ENCRYPTION_COIN_NOT_FOUND || status == PEER_INVALID_ENCRYPTION_CODE;
    size_t bytes = wide ? 48 : 32;
    memset(reply, 0, bytes);
    reply[0] = peer->raida_id;
    reply[2] = (uint8_t)status;
    if (status >= PEER_INVALID_COIN_ID && status != PEER_INVALID_ROUTING)
        reply[3] = request[4];
    if (wide) {
        reply[16] = request[16];
        if (status == PEER_ENCRYPTION_COIN_NOT_FOUND) {
            memcpy(reply + 17, request + 19, 5);
            memcpy(reply + 46, request + 46, 2);
        }
        return bytes;
    }
    reply[5] = 1;
    if (status > PEER_INVALID_COIN_ID && status != PEER_INVALID_ROUTING)
        memcpy(reply + 6, request + 30, 2);
    return bytes;
}

/* Answer a whole type 0 request whose header passed: body checks, then the command. */
static inline size_t peer_reply_command(const struct peer *peer, const uint8_t *request,
                                        uint8_t *reply)
{
    size_t body_bytes = peer_body_bytes(request);
    const uint8_t *body = request + 32;
    enum peer_status status = PEER_SUCCESS;
    if (body_bytes > 0)
        status = peer_check_body(peer, body, body_bytes);
    size_t bytes = peer_reply_header(peer, request, status, reply);
    if (body_bytes > 0 && (status == PEER_SUCCESS || status == PEER_INVALID_CRC))
        memcpy(reply + 16, body, 16);
    if (status == PEER_SUCCESS && request[5] == 1) {
        reply[11] = 10;
        memcpy(reply + bytes, "20250323>>", 10);
        bytes += 10;
    }
    return bytes;
}

/* Answer one datagram. Returns the reply's bytes, 0 = drop. reply: PEER_REPLY_BYTES_MAX. */
static inline size_t peer_answer_datagram(const struct peer *peer, const uint8_t *request,
                                          size_t bytes, uint8_t *reply)
{
    if (bytes == PEER_VOTE_BYTES && request[0] == 7) {
        reply[0] = memcmp(request + 1, peer->roots, PEER_ROOTS_BYTES) == 0;
        memcpy(reply + 1, request + 1 + PEER_ROOTS_BYTES, PEER_NONCE_BYTES);
        return 1 + PEER_NONCE_BYTES;
    }
    if (bytes < 17 || bytes < peer_header_bytes(request))
        return 0;
    enum peer_status status = peer_check_header(peer, request);
    if (status != PEER_SUCCESS)
        return peer_reply_header(peer, request, status, reply);
    if (bytes < 32 + peer_body_bytes(request))
        return peer_reply_header(peer, request, PEER_INVALID_PACKET_LENGTH, reply);
    return peer_reply_command(peer, request, reply);
}

/* Answer what has arrived of a TCP request. Returns the reply's bytes, 0 = more is needed. */
static inline size_t peer_answer_stream(const struct peer *peer, const uint8_t *request,
                                        size_t bytes, uint8_t *reply)
{
    if (bytes < 17 || bytes < peer_header_bytes(request))
        return 0;
    enum peer_status status = peer_check_header(peer, request);
    if (status != PEER_SUCCESS)
        return peer_reply_header(peer, request, status, reply);
    if (32 + peer_body_bytes(request) > PEER_REQUEST_BYTES_MAX)
        return peer_reply_header(peer, request, PEER_INVALID_PACKET_LENGTH, reply);
    if (bytes < 32 + peer_body_bytes(request))
        return 0;
    return peer_reply_command(peer, request, reply);
}

/* -- start: not measured --------------------------------------------------------------------- */

static inline void peer_require(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(1);
}

/* Socket of `type` on 127.0.0.1:port, listening when it is a stream. Exits on failure. */
static inline int peer_bind(int type, uint16_t port)
{
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    peer_require(fd >= 0, "socket");
    int on = 1, bytes = 4 << 20;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (type == SOCK_STREAM) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    } else {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    peer_require(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    peer_require(type != SOCK_STREAM || listen(fd, 4096) == 0, "listen");
    return fd;
}

/* Read `PORT RAIDA_ID`. Exits with usage when they are not two numbers in range. */
static inline uint16_t peer_arguments(int argc, char **argv, struct peer *peer)
{
    long port = argc == 3 ? strtol(argv[1], NULL, 10) : 0;
    long raida_id = argc == 3 ? strtol(argv[2], NULL, 10) : -1;
    if (port < 1 || port > 65535 || raida_id < 0 || raida_id > 255) {
        fprintf(stderr, "usage: %s PORT RAIDA_ID\n", argv[0]);
        exit(2);
    }
    peer_init(peer, (uint8_t)raida_id);
    return (uint16_t)port;
}

static inline void peer_ready(void)
{
    puts("ready");
    fflush(stdout);
}

#endif
