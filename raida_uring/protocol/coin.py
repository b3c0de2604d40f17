"""Coins: which coin it is, and the AN that proves who owns it.

Pure. Source: docs/wire.md, "Conventions".
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from raida_uring.errors import ArgumentError, ProtocolError
from raida_uring.protocol import arguments
from raida_uring.protocol.layout import AN_SIZE, COIN_NAME, COIN_NAME_SIZE, DENOMINATIONS
from raida_uring.protocol.status import Status


class CoinName(NamedTuple):
    """den: denomination, -8 to 6 for coins that exist. sn: serial number, 0 to 1,023,999."""

    den: int
    sn: int

    @property
    def wire(self) -> bytes:
        """Its 5 bytes. Raises ArgumentError when den is no signed byte or sn no 32 bits."""
        try:
            return COIN_NAME.pack(self.den, self.sn)
        except struct.error as error:
            raise ArgumentError(f"no coin {self.den}/{self.sn}: {error}") from None


@dataclass(frozen=True, slots=True)
class Coin:
    """A coin with its AN.

    an: its 16-byte authenticity number at the node that is asked; left out of repr(). Raises
    ArgumentError when a value does not fit the wire.
    """

    den: int
    sn: int
    an: bytes

    def __post_init__(self) -> None:
        arguments.whole("den", self.den, DENOMINATIONS[0], DENOMINATIONS[-1])
        arguments.whole("sn", self.sn, 0, 0xFFFFFFFF)
        object.__setattr__(self, "an", arguments.octets("an", self.an, AN_SIZE))

    def __repr__(self) -> str:
        return f"Coin(den={self.den}, sn={self.sn})"

    @property
    def name(self) -> CoinName:
        """Which coin it is."""
        return CoinName(self.den, self.sn)


def parse_coin_names(data: bytes) -> tuple[CoinName, ...]:
    """Return the coins named in `data`. Raises ProtocolError unless they have 5 bytes each."""
    if len(data) % COIN_NAME_SIZE:
        raise ProtocolError(
            f"{len(data)} bytes are no whole number of coin names", Status.INVALID_PACKET_LENGTH
        )
    return tuple(CoinName(*fields) for fields in COIN_NAME.iter_unpack(data))
