/* native.h: what the native tests share: expectations, deaths in a child, seeded numbers, a directory,
 * a node.
 *
 * A test is a function without arguments that RUN() calls; it has passed when no expectation in it
 * failed. RU_SEED=n in the environment replaces the seed of the random ones.
 */
#ifndef RU_TESTS_NATIVE_H
#define RU_TESTS_NATIVE_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/page.h"
#include "memory/arena.h"
#include "wire/fast.h"
#include "memory/token.h"

/* ---- expectations ---- */

static struct {
    unsigned passed, failed;
    unsigned here; /* failed expectations of the running test */
} native;

#define NATIVE_SHOWN_MAX 10 /* failures of one test that are worth reading */

static inline void native_fail(const char *file, int line, const char *what)
{
    if (native.here++ < NATIVE_SHOWN_MAX)
        (void)fprintf(stderr, "%s:%d: %s\n", file, line, what);
}

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            native_fail(__FILE__, __LINE__, "not true: " #condition);                              \
    } while (0)

static inline void native_equal(const char *file, int line, const char *what, uint64_t got,
                                uint64_t want)
{
    char text[200];
    if (got == want)
        return;
    (void)snprintf(text, sizeof(text), "%s is %llu, not %llu", what, (unsigned long long)got,
                   (unsigned long long)want);
    native_fail(file, line, text);
}

#define EXPECT_EQUAL(got, want)                                                                    \
    native_equal(__FILE__, __LINE__, #got, (uint64_t)(got), (uint64_t)(want))

static inline void native_bytes(const char *file, int line, const char *what, const uint8_t *got,
                                const uint8_t *want, size_t size)
{
    char text[200];
    for (size_t i = 0; i < size; i++) {
        if (got[i] == want[i])
            continue;
        (void)snprintf(text, sizeof(text), "%s: byte %zu is %02x, not %02x", what, i, got[i],
                       want[i]);
        native_fail(file, line, text);
        return;
    }
}

#define EXPECT_BYTES(got, want, size) native_bytes(__FILE__, __LINE__, #got, got, want, size)

/* ---- deaths ---- */

/* In the child: 0 and a quiet process whose standard error is *output's other end. */
static inline pid_t native_fork(int *output)
{
    int ends[2];
    if (pipe(ends) != 0)
        abort();
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(ends[1], STDERR_FILENO);
    }
    (void)close(ends[1]);
    *output = ends[0];
    return pid;
}

/* True if the child ended by RU_CHECK, and by nothing else. */
static inline bool native_aborted(pid_t pid, int output)
{
    char text[512] = "";
    size_t size = 0;
    ssize_t part;
    while ((part = read(output, text + size, sizeof(text) - 1 - size)) > 0)
        size += (size_t)part;
    (void)close(output);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid)
        abort();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(text, "check failed");
}

/* The statement runs in a child. What it writes to an arena (shared memory) stays. */
#define EXPECT_ABORT(...)                                                                          \
    do {                                                                                           \
        int native_output;                                                                         \
        pid_t native_pid = native_fork(&native_output);                                            \
        if (native_pid == 0) {                                                                     \
            __VA_ARGS__;                                                                           \
            _exit(0);                                                                              \
        }                                                                                          \
        if (!native_aborted(native_pid, native_output))                                            \
            native_fail(__FILE__, __LINE__, "no check failed: " #__VA_ARGS__);                     \
    } while (0)

/* ---- seeded numbers ---- */

static inline uint64_t native_seed(void)
{
    const char *text = getenv("RU_SEED");
    return text ? strtoull(text, NULL, 10) : 20250323;
}

static inline uint64_t native_random(struct ru_random *random)
{
    uint64_t value;
    ru_random_fill(random, (uint8_t *)&value, sizeof(value));
    return value;
}

/* From 0 to count - 1. */
static inline uint32_t native_below(struct ru_random *random, uint32_t count)
{
    return (uint32_t)(native_random(random) % count);
}

/* ---- a directory ---- */

#define NATIVE_PATH_SIZE 256

struct native_directory {
    char path[NATIVE_PATH_SIZE];
    int fd;
};

/* An empty one in TMPDIR. If that is not set: in memory, if the machine has a place for it, since the
 * tests flush thousands of times. */
static inline struct native_directory native_directory_new(void)
{
    struct native_directory made;
    const char *place = getenv("TMPDIR");
    if (!place)
        place = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    int size = snprintf(made.path, sizeof(made.path), "%s/raida-native.XXXXXX", place);
    if (size >= (int)sizeof(made.path) || !mkdtemp(made.path))
        abort();
    made.fd = open(made.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (made.fd < 0)
        abort();
    return made;
}

/* Once the test has removed all that is in it. */
static inline void native_directory_remove(const struct native_directory *made)
{
    (void)close(made->fd);
    EXPECT_EQUAL(rmdir(made->path), 0);
}

/* ---- running ---- */

#define RUN(test)                                                                                  \
    do {                                                                                           \
        native.here = 0;                                                                           \
        test();                                                                                    \
        if (native.here > 0)                                                                       \
            (void)fprintf(stderr, "FAILED " #test ": %u expectations, RU_SEED=%llu\n",             \
                          native.here, (unsigned long long)native_seed());                         \
        native.failed += native.here > 0;                                                          \
        native.passed += native.here == 0;                                                         \
    } while (0)

static inline int native_finish(void)
{
    printf("%u passed, %u failed\n", native.passed, native.failed);
    return native.failed > 0;
}

/* ---- a node without a loop ---- */

#define NATIVE_RAIDA_ID 14
#define NATIVE_COIN_ID 6

/* Commands of the node, group << 8 | command; every other one is unknown. */
enum native_command {
    NATIVE_ECHO = 0x0001,
    NATIVE_WORKER = 0x0302,
    NATIVE_SLOW = 0x0F7B,
};

struct native_node {
    struct ru_config config;
    struct ru_arena arena;
    struct ru_front front;
};

/* A small configuration; change it before native_open(). */
static inline struct ru_config native_config(void)
{
    return (struct ru_config){
        .raida_id = NATIVE_RAIDA_ID,
        .coin_id = NATIVE_COIN_ID,
        .workers = 2,
        .slow_workers = 1,
        .batch_max = 16,
        .udp_contexts = 4,
        .udp_reserve = 2,
        .udp_payload_size = 1440,
        .connections_max = 4,
        .body_bytes_max = 65536,
        .small_blocks = 4,
        .large_blocks = 4,
        .tcp_persistent = 1,
        .progress_timeout_ms = 2000,
        .header_timeout_ms = 5000,
        .body_timeout_ms = 15000,
        .write_timeout_ms = 14000,
        .idle_timeout_ms = 60000,
    };
}

static inline void native_open(struct native_node *node, const struct ru_config *config)
{
    *node = (struct native_node){.config = *config};
    if (ru_page_create(&node->arena, config) != 0)
        abort();
    struct ru_page *page = ru_page_of(&node->arena);
    page->classes[NATIVE_ECHO] = RU_CLASS_ECHO;
    page->classes[NATIVE_WORKER] = RU_CLASS_ORDINARY;
    page->classes[NATIVE_SLOW] = RU_CLASS_SLOW;
    node->front = (struct ru_front){.identity = {.raida_id = NATIVE_RAIDA_ID,
                                                 .coin_id = NATIVE_COIN_ID,
                                                 .body_bytes_max = config->body_bytes_max,
                                                 .classes = page->classes},
                                    .roots = &page->roots,
                                    .random = {1}};
}

static inline void native_close(struct native_node *node)
{
    ru_arena_destroy(&node->arena);
}

/* ---- requests ---- */

/* A valid header; what the server must ignore is `noise`. Returns its size. */
static inline uint8_t native_header(uint8_t *out, uint8_t encryption, enum native_command command,
                                    uint16_t body_size, uint8_t noise)
{
    uint8_t size = encryption <= RU_SMALL_TYPE_MAX ? RU_HEADER_SMALL : RU_HEADER_LARGE;
    uint8_t *body_size_at = out + (size == RU_HEADER_SMALL ? RU_REQUEST_SMALL_BODY_SIZE_AT
                                                           : RU_REQUEST_LARGE_BODY_SIZE_AT);
    memset(out, noise, size);
    const uint8_t front[RU_REQUEST_IGNORED_AT] = {
        1, 0, NATIVE_RAIDA_ID, 3, (uint8_t)(command >> 8), (uint8_t)command, 0, NATIVE_COIN_ID};
    memcpy(out, front, sizeof(front));
    out[RU_REQUEST_ENCRYPTION_AT] = encryption;
    body_size_at[0] = (uint8_t)(body_size >> 8);
    body_size_at[1] = (uint8_t)body_size;
    return size;
}

/* A valid body of type 0 (as far as `size` bytes allow): challenge, CRC, payload, terminator. */
static inline void native_body(uint8_t *out, size_t size, struct ru_random *random)
{
    ru_random_fill(random, out, size);
    if (size >= RU_CHALLENGE_SIZE) {
        uint32_t crc = ru_body_crc32(out, RU_CHALLENGE_RANDOM_SIZE);
        for (uint32_t i = 0; i < 4; i++)
            out[RU_CHALLENGE_CRC_AT + i] = (uint8_t)(crc >> (24 - 8 * i));
    }
    if (size >= RU_TERMINATOR_SIZE)
        memset(out + size - RU_TERMINATOR_SIZE, RU_TERMINATOR_BYTE, RU_TERMINATOR_SIZE);
}

#endif
