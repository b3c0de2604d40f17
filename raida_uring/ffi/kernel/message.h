/* message.h: message headers over the datagram slots.
 *
 * Shared by the backends: each receives into a slot and replies from it. Thread: loop.
 */
#ifndef RU_MESSAGE_H
#define RU_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "memory/arena.h"
#include "kernel/backend.h"

/* The peer's address in `slot`, and its size in bytes. */
const struct sockaddr *ru_message_peer(const struct ru_arena *arena, uint32_t slot,
                                       socklen_t *size);
/* Set up `header` to receive a datagram into `slot`. It points at `bytes`, its vector. */
void ru_message_to_receive(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                           uint32_t slot);
/* `size` bytes were received with `header`: update the slot's head and fill the event. */
void ru_message_received(const struct ru_arena *arena, uint32_t listener, uint32_t slot,
                         const struct msghdr *header, uint32_t size, struct ru_event *event);
/* Set up `header` to send `payload` to the peer of `slot`; if `controlled`, from the request's
 * destination address. `bytes` is its vector; both and the payload must stay valid until sent. */
void ru_message_to_reply(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                         uint32_t slot, const uint8_t *payload, uint32_t size, bool controlled);
/* The operation `receive_now` of both kernel backends. */
bool ru_message_receive_now(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                            struct ru_event *event);

#endif
