"""ffi/seal/ with the interface of opener.py's Opener. A node calls it from C alone."""

from typing import Any, Final

from raida_uring.ffi import _native  # type: ignore[attr-defined]  # has no stubs
from raida_uring.protocol import Status
from raida_uring.protocol.layout import (
    COIN_NAME,
    COIN_NAME_SIZE,
    REPLY_NONCE_SIZE,
    REQUEST_ENCRYPTION_AT,
    REQUEST_LARGE_COIN_AT,
    REQUEST_LARGE_SECOND_COIN_AT,
    REQUEST_SMALL_COIN_AT,
    SMALL_TYPE_MAX,
)
from tests.support.opener import Keys, Opened

_lib: Final[Any] = _native.lib
_ffi: Final[Any] = _native.ffi
_LIBRARY: Final = _lib.ru_seal_library_create()  # for as long as the process lives


def coins_of(header: bytes) -> list[tuple[int, int]]:
    """The key coins that a header names."""
    encryption = header[REQUEST_ENCRYPTION_AT]
    places = {1: [REQUEST_SMALL_COIN_AT], 2: [], 4: [REQUEST_LARGE_COIN_AT]}.get(
        encryption, [REQUEST_LARGE_COIN_AT, REQUEST_LARGE_SECOND_COIN_AT]
    )
    names = (header[place : place + COIN_NAME_SIZE] for place in places)
    return [COIN_NAME.unpack(name) for name in names]


class NativeOpener:
    """A struct ru_seal. Thread: one."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys
        self._seal = _ffi.gc(_lib.ru_seal_create(_LIBRARY), _lib.ru_seal_destroy)
        assert self._seal != _ffi.NULL

    def open(self, header: bytes, body: bytes, *, public: bool = False) -> Opened:
        """As Opener.open()."""
        ans = [self._keys and self._keys.an(*coin) for coin in coins_of(header)]
        first, second = [_ffi.NULL if an is None else an for an in (*ans, None, None)][:2]
        data = _ffi.new("uint8_t[]", max(len(body), 1))
        _ffi.memmove(data, body, len(body))
        out = _ffi.new("struct ru_unsealed *")
        status = _lib.ru_seal_open(
            self._seal, header, data, len(body), first, second, int(public), out
        )
        if status:
            assert (out.proved, bytes(_ffi.buffer(out.key))) == (0, bytes(32))
            return Opened(Status(status))
        if not out.proved:
            return Opened()
        clear = bytes(_ffi.buffer(data + out.payload_at, out.payload_size))

        def seal(payload: bytes, nonce: bytes = b"") -> bytes:
            return self._sealed(header, out, payload, nonce)

        return Opened(None, clear, seal)

    def _sealed(self, header: bytes, unsealed: Any, payload: bytes, nonce: bytes) -> bytes:
        size = _lib.ru_seal_reply_size(header, len(payload))
        data = _ffi.new("uint8_t[]", max(size, 1))
        _ffi.memmove(data, payload, len(payload))
        drawn = _ffi.new("uint8_t[]", REPLY_NONCE_SIZE)
        if header[REQUEST_ENCRYPTION_AT] <= SMALL_TYPE_MAX:
            field = bytes(_ffi.buffer(unsealed.challenge))
        else:
            _lib.ru_seal_draw_nonce(self._seal, header, drawn)
            _ffi.memmove(drawn, nonce, len(nonce))
            field = bytes(_ffi.buffer(drawn))
        assert _lib.ru_seal_reply(self._seal, header, unsealed, drawn, data, len(payload)) == 0
        return field + bytes(_ffi.buffer(data, size))

    def forget(self) -> None:
        """Remove keys from the contexts."""
        _lib.ru_seal_forget(self._seal)
