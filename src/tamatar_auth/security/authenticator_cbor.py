"""The CBOR of authenticators, checked before a library decodes it.

Authenticators send no tags (CTAP2, canonical CBOR). The decoder of the library `webauthn` acts on
them: it compiles regular expressions, and shares values that its encoder repeats. A few hundred
bytes of those keep a server busy for hours.
"""

from typing import Any

from webauthn.helpers import encode_cbor, parse_cbor
from webauthn.helpers.exceptions import InvalidCBORData

MAX_DEPTH = 8
"""The deepest nesting. Attestations have five levels."""

_BYTES, _TEXT, _ARRAY, _MAP, _TAG = 2, 3, 4, 5, 6
"""The major types of items that have content."""
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
"""The bytes of a value that does not fit into the first byte."""
_INDEFINITE = range(28, 32)
"""The sizes that are reserved, and that of an item without a length."""

_FLAGS = 32
_EXTENSIONS, _HAS_CREDENTIAL = 0x80, 0x40
_CREDENTIAL = 37
"""The place of the flags, their bits, and the place of what they announce."""
_AAGUID_BYTES = 16
_LENGTH_BYTES = 2


def decode(content: bytes) -> Any:
    """Decode the item at the start of CBOR without tags, or raise `InvalidCBORData`."""
    return parse_cbor(content[: _end_of_item(content)])


def require_plain(authenticator_data: object) -> None:
    """Raise `InvalidCBORData` if authenticator data has more than plain CBOR."""
    if not isinstance(authenticator_data, bytes) or len(authenticator_data) < _CREDENTIAL:
        raise InvalidCBORData
    flags, position = authenticator_data[_FLAGS], _CREDENTIAL
    if flags & _HAS_CREDENTIAL:
        position += _AAGUID_BYTES
        length = authenticator_data[position : position + _LENGTH_BYTES]
        position += _LENGTH_BYTES + int.from_bytes(length, "big")
        position = _end_of_encoded(authenticator_data, position)
    if flags & _EXTENSIONS:
        position = _end_of_encoded(authenticator_data, position)
    if position != len(authenticator_data):
        raise InvalidCBORData


def _end_of_encoded(content: bytes, start: int) -> int:
    """Return where an item ends. The library seeks the next one after the item encoded again."""
    end = _end_of_item(content, start)
    item = content[start:end]
    if encode_cbor(parse_cbor(item)) != item:
        raise InvalidCBORData
    return end


def _end_of_item(content: bytes, start: int = 0, depth: int = MAX_DEPTH) -> int:
    """Return where an item ends, as RFC 8949 (appendix C) does."""
    kind, size = divmod(content[start], 32) if start < len(content) else (_TAG, 0)
    width = _WIDTHS.get(size, 0)
    end = start + 1 + width
    value = int.from_bytes(content[start + 1 : end], "big") if width else size
    if kind == _TAG or size in _INDEFINITE or (kind in {_ARRAY, _MAP} and not depth):
        raise InvalidCBORData
    if kind in {_BYTES, _TEXT}:
        end += value
    elif kind in {_ARRAY, _MAP}:
        for _ in range(value if kind == _ARRAY else 2 * value):
            end = _end_of_item(content, end, depth - 1)
    if end > len(content):
        raise InvalidCBORData
    return end
