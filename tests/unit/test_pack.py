"""Replies of a batch, packed for the data plane by the short way and the long one."""

from array import array

import pytest

from raida_uring.handlers.message import Reply, pack

GOOD = Reply(250, b"payload")


@pytest.mark.parametrize(
    "replies",
    [
        [GOOD],
        [GOOD] * 3,
        [Reply()] * 128,
        [GOOD, Reply(250, b"payload")],  # equal, not one
        [GOOD, GOOD, Reply(36)],
        [Reply(0), Reply(255, bytes(1000)), GOOD],
    ],
)
def test_what_is_packed(replies: list[Reply]) -> None:
    statuses, sizes, payload = pack(replies)
    assert statuses == bytes(reply.status for reply in replies)
    assert sizes == array("I", [len(reply.payload) for reply in replies])
    assert payload == b"".join(reply.payload for reply in replies)


@pytest.mark.parametrize(
    "bad",
    [
        Reply(256),
        Reply(-1),
        Reply("250"),  # type: ignore[arg-type]
        Reply(250, "text"),  # type: ignore[arg-type]
        Reply(250, array("I", [1])),  # type: ignore[arg-type]
        (250, b""),
        None,
    ],
)
def test_what_cannot_be_packed(bad: object) -> None:
    for count in (1, 2):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            pack([bad] * count)  # type: ignore[list-item]
