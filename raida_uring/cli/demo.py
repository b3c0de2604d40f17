"""`store init --demo`: one coin in circulation, and the Python lines that detect and pown it."""

import secrets
from pathlib import Path

from raida_uring import config
from raida_uring.store import AN_BYTES, COIN_BYTES, Store, month_now

_DENOMINATION = 0  # a coin of 1
_SERIAL_NUMBER = 1
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where a wildcard is asked

_SCRIPT = """\
# {path}: a demonstration store. One coin is in circulation:
# denomination {den}, serial number {sn}, AN {an}
# Start the node that serves the store, then run these lines with Python.
from raida_uring.client import Client, Coin, calls

node = Client("{host}", {port}, raida_id={raida_id}, coin_id={coin_id})
coin = Coin(den={den}, sn={sn}, an=bytes.fromhex("{an}"))
new_an = bytes.fromhex("{new_an}")

print("detect, its AN:    ", node.ask(calls.detect([coin])).require().all_passed)
print("pown, a new AN:    ", node.ask(calls.pown([(coin, new_an)])).require().all_passed)
print("detect, the old AN:", node.ask(calls.detect([coin])).require().all_passed)
"""


def circulate(path: Path, map_bytes: int) -> bytes:
    """Put one coin of the new store at `path` into circulation and return its AN.

    Raises StoreError, and removes the store, when the coin cannot be written.
    """
    an = secrets.token_bytes(AN_BYTES)
    store = Store(path, map_bytes=map_bytes)
    try:
        with store.write() as coins:
            coin = bytes([_DENOMINATION]) + _SERIAL_NUMBER.to_bytes(4) + an
            coins.set(coin, 1, COIN_BYTES + AN_BYTES, month_now())
    except BaseException:
        store.remove()
        raise
    finally:
        store.close()
    return an


def script(path: str, an: bytes, chosen: config.Config) -> str:
    """A Python program that asks the node of `chosen` to detect the coin, pown it, detect it."""
    bound = chosen.network.bind[0]
    return _SCRIPT.format(
        path=path,
        den=_DENOMINATION,
        sn=_SERIAL_NUMBER,
        an=an.hex(),
        new_an=secrets.token_hex(AN_BYTES),
        host=_LOOPBACK.get(bound, bound),
        port=chosen.server.port or config.FIRST_PORT + chosen.server.raida_id,
        raida_id=chosen.server.raida_id,
        coin_id=chosen.server.coin_id,
    )
