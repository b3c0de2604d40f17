/* message.c: message headers over the datagram slots.
 *
 * Layout of a slot: its head, the peer's address, the control record of the destination address
 * (only if a listener is bound to a wildcard), the datagram. The reply overwrites the datagram.
 */
#include "kernel/message.h"

#include <netinet/in.h>

static uint8_t *message_slot(const struct ru_arena *arena, uint32_t slot)
{
    return arena->base + ru_arena_slot_at(arena, slot);
}

const struct sockaddr *ru_message_peer(const struct ru_arena *arena, uint32_t slot, socklen_t *size)
{
    const struct sockaddr *peer =
        (const struct sockaddr *)(void *)(message_slot(arena, slot) + RU_SLOT_HEAD);
    *size = peer->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    return peer;
}

void ru_message_to_receive(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                           uint32_t slot)
{
    uint8_t *at = message_slot(arena, slot);
    *bytes = (struct iovec){.iov_base = at + arena->payload_at, .iov_len = arena->payload_size};
    *header = (struct msghdr){
        .msg_name = at + RU_SLOT_HEAD,
        .msg_namelen = RU_PEER_SIZE,
        .msg_iov = bytes,
        .msg_iovlen = 1,
        .msg_control = at + RU_SLOT_HEAD + RU_PEER_SIZE,
        .msg_controllen = arena->control_size,
    };
}

void ru_message_received(const struct ru_arena *arena, uint32_t listener, uint32_t slot,
                         const struct msghdr *header, uint32_t size, struct ru_event *event)
{
    RU_CHECK(size <= arena->payload_size && header->msg_controllen <= arena->control_size);
    ru_arena_slot_head(arena, slot)->control_size = (uint32_t)header->msg_controllen;
    *event = (struct ru_event){
        .operation = RU_OP_DATAGRAMS,
        .truncated = (header->msg_flags & MSG_TRUNC) != 0,
        .controlled = header->msg_controllen > 0 && !(header->msg_flags & MSG_CTRUNC),
        .index = listener,
        .result = (int32_t)size,
        .buffer = slot,
    };
}

/* The record of the destination address also names the interface. Sent back unchanged, it would
 * force the reply through that interface against the routing table; only a link-local peer needs
 * that. */
static void message_unpin(uint8_t *control, const struct sockaddr *peer)
{
    struct cmsghdr *record = (struct cmsghdr *)(void *)control;
    if (record->cmsg_level == IPPROTO_IP && record->cmsg_type == IP_PKTINFO) {
        ((struct in_pktinfo *)(void *)CMSG_DATA(record))->ipi_ifindex = 0;
    } else if (record->cmsg_level == IPPROTO_IPV6 && record->cmsg_type == IPV6_PKTINFO) {
        const struct sockaddr_in6 *name = (const struct sockaddr_in6 *)(const void *)peer;
        if (!IN6_IS_ADDR_LINKLOCAL(&name->sin6_addr))
            ((struct in6_pktinfo *)(void *)CMSG_DATA(record))->ipi6_ifindex = 0;
    }
}

void ru_message_to_reply(struct msghdr *header, struct iovec *bytes, const struct ru_arena *arena,
                         uint32_t slot, const uint8_t *payload, uint32_t size, bool controlled)
{
    const struct ru_slot_head *head = ru_arena_slot_head(arena, slot);
    socklen_t peer_size;
    const struct sockaddr *peer = ru_message_peer(arena, slot, &peer_size);
    *bytes = (struct iovec){.iov_base = (void *)(uintptr_t)payload, .iov_len = size};
    *header = (struct msghdr){
        .msg_name = (void *)(uintptr_t)peer,
        .msg_namelen = peer_size,
        .msg_iov = bytes,
        .msg_iovlen = 1,
    };
    if (!controlled)
        return;
    /* The head lies in memory that workers can write, so bound the length it states. */
    uint8_t *control = message_slot(arena, slot) + RU_SLOT_HEAD + RU_PEER_SIZE;
    message_unpin(control, peer);
    header->msg_control = control;
    header->msg_controllen = ru_number_min32(head->control_size, arena->control_size);
}

bool ru_message_receive_now(struct ru_backend *backend, uint32_t listener, uint32_t slot,
                            struct ru_event *event)
{
    const struct ru_backend_setup *setup = &backend->setup;
    struct msghdr header;
    struct iovec bytes;
    ru_message_to_receive(&header, &bytes, setup->arena, slot);
    ssize_t size = recvmsg(setup->config->listeners[listener].udp_fd, &header, MSG_DONTWAIT);
    if (size < 0)
        return false;
    ru_message_received(setup->arena, listener, slot, &header, (uint32_t)size, event);
    return true;
}
