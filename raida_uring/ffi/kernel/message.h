/* message.h: slots as the kernel's message headers see them.
 *
 * What backends share: every one of them receives into a slot and answers from it, whichever system
 * call does it. Thread: loop.
 */
#ifndef RU_MESSAGE_H
#define RU_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "memory/arena.h"
#include "kernel/backend.h"

/* The peer named in `slot`, and the bytes of that name. */
const struct sockaddr *ru_message_peer(const struct ru_arena *arena, uint32_t slot,
                                       socklen_t *size);
/* Make `header` receive a datagram into `slot`. `bytes` is its vector and must stay with it. */
void ru_message_to_receive(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                           uint32_t slot);
/* `size` bytes were received that way: note it at the slot's head and tell it as an event. */
void ru_message_received(const struct ru_arena *arena, uint32_t listener, uint32_t slot,
                         const struct msghdr *header, uint32_t size, struct ru_event *event);
/* Make `header` answer with `payload` the peer named in `slot`, if `controlled` from the address
 * that was asked. `bytes` is its vector; all of them must stay until it has been sent. */
void ru_message_to_reply(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                         uint32_t slot, const uint8_t *payload, uint32_t size, bool controlled);
/* The operation `receive_now` of a backend whose sockets are the kernel's. */
bool ru_message_receive_now(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                            struct ru_event *event);

#endif
