"""Handlers of mode "write" for tests, in the empty group 5, for nodes with a store.

HOLD_WRITE keeps the writing lane busy while the gate of tests.support.handlers is closed, so that
what is sent meanwhile becomes one batch.
"""

from raida_uring.handlers import Node, Reply, Request, command
from tests.support.handlers import GROUP, blob_bytes, gate

HOLD_WRITE = (GROUP, 220)
CHANGE_AND_RAISE = (GROUP, 221)
CHANGE_AND_BABBLE = (GROUP, 222)
MEDDLE = (GROUP, 225)
WRITE_WHILE_READING = (GROUP, 226)
USE_CLOSED = (GROUP, 227)
FAIL_AFTER_COMMIT = (GROUP, 228)
MISCOUNT = (GROUP, 231)
NEST = (GROUP, 232)
SLOW_NEST = (GROUP, 233)
CHANGE_AND_ANSWER = (GROUP, 234)
LOOK_WRONGLY = (GROUP, 235)
SLOW_CHANGE = (GROUP, 236)

MODULES = {"modules": ["tests.support.handlers", "tests.support.write_handlers"]}


@command(group=GROUP, code=HOLD_WRITE[1], mode="write")
def hold_write(request: Request, node: Node) -> Reply:
    """Answers once the gate is open."""
    gate.pass_through()
    return Reply()


def _change(request: Request, node: Node) -> None:
    """The payload is a coin and an AN; a count goes with it."""
    node.coins.set(request.payload, 1, 21, 1)
    node.coins.after_commit(lambda: node.count_powned(1_000_000, 0))


@command(group=GROUP, code=CHANGE_AND_RAISE[1], mode="write")
def change_and_raise(request: Request, node: Node) -> Reply:
    """Changes a coin, then fails."""
    _change(request, node)
    raise RuntimeError("a test's handler raises on purpose")


@command(group=GROUP, code=CHANGE_AND_BABBLE[1], mode="write")
def change_and_babble(request: Request, node: Node) -> Reply:
    """Changes a coin, then returns what is no reply."""
    _change(request, node)
    return b"no reply"  # type: ignore[return-value]  # the mistake under test


@command(group=GROUP, code=MEDDLE[1], mode="write")
def meddle(request: Request, node: Node) -> Reply:
    """Changes a coin, then does by itself what is the worker's to do: the payload's last byte says
    what."""
    _change(request, node)
    coins = node.coins
    (coins.commit, coins.end, coins.begin, coins.close, coins.keep, coins.undo)[
        request.payload[-1]
    ]()
    return Reply()


@command(group=GROUP, code=WRITE_WHILE_READING[1])
def write_while_reading(request: Request, node: Node) -> Reply:
    """Changes a coin, with a view that is not for changes."""
    node.coins.set(request.payload, 1, 21, 1)
    return Reply()


@command(group=GROUP, code=USE_CLOSED[1], mode="slow")
def use_closed(request: Request, node: Node) -> Reply:
    """Looks into the store with a view that has ended."""
    with node.read() as coins:
        pass
    return Reply(payload=coins.an(0, 1) or b"")


@command(group=GROUP, code=FAIL_AFTER_COMMIT[1], mode="write")
def fail_after_commit(request: Request, node: Node) -> Reply:
    """Changes a coin; its action after the commit fails."""
    _change(request, node)

    def leave() -> None:
        raise SystemExit("a test's action raises on purpose")

    node.coins.after_commit(leave)
    return Reply()


@command(group=GROUP, code=MISCOUNT[1], mode="write")
def miscount(request: Request, node: Node) -> Reply:
    """Says that the payload lists more coins than it does; its first byte says to whom."""
    coins, one = node.coins, request.payload[1:]
    (
        lambda: coins.match(one, 1 << 20, 21),
        lambda: coins.match(one, 2, 21),
        lambda: coins.match(one, 1, 21, 6),
        lambda: coins.gather(one, 5),
        lambda: coins.exchange(one, 1, 21, 5, 21, 1),
        lambda: coins.set(one, 1 << 20, 0, 1),
        lambda: coins.set(one, 1, 21, 1, -16),
    )[request.payload[0]]()
    return Reply()


@command(group=GROUP, code=NEST[1], mode="write")
def nest(request: Request, node: Node) -> Reply:
    """Begins a transaction within the worker's."""
    with node.write():
        return Reply()


@command(group=GROUP, code=SLOW_NEST[1], mode="slow")
def slow_nest(request: Request, node: Node) -> Reply:
    """Begins a transaction within its own."""
    with node.write(), node.write():
        return Reply()


@command(group=GROUP, code=CHANGE_AND_ANSWER[1], mode="write", public=False)
def change_and_answer(request: Request, node: Node) -> Reply:
    """Changes a coin, then, once the gate is open, answers with as many bytes as the payload's last
    four say."""
    _change(request, node)
    gate.pass_through()
    return Reply(payload=blob_bytes(int.from_bytes(request.payload[-4:])))


@command(group=GROUP, code=LOOK_WRONGLY[1], mode="write")
def look_wrongly(request: Request, node: Node) -> Reply:
    """Asks for the page that the payload names, which no store has."""
    node.coins.page(int.from_bytes(request.payload, signed=True))
    return Reply()


@command(group=GROUP, code=SLOW_CHANGE[1], mode="slow")
def slow_change(request: Request, node: Node) -> Reply:
    """Gives a coin the AN behind it, in a transaction of its own."""
    with node.write() as coins:
        coins.set(request.payload, 1, 21, 1)
    return Reply()
