"""Page tokens: the start of the next page, signed and bound to the query.

A token is the cursor of the last row with an HMAC-SHA256 over the cursor and the query. So it
cannot be forged, and it is invalid for another filter, order or method.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from tamatar_auth.errors import InvalidPageToken
from tamatar_auth.storage.repositories import KeysetCursor

MessageT = TypeVar("MessageT", bound=Message)

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

MAX_PAGE_BYTES = 3 * 1024 * 1024
"""Bytes of a page, because clients reject messages of more than 4 MiB by default."""

_SIGNATURE_BYTES = 16  # 128 bits: RFC 2104 recommends at least half of the digest


class PageQuery(NamedTuple):
    """The query of a token: the method, its order and its filter."""

    method: str
    order: str
    matching: Message

    def digest(self) -> bytes:
        """Return the digest of the query that a signature covers."""
        parts = (self.method, self.order, self.matching.SerializeToString(deterministic=True).hex())
        return hashlib.sha256(json.dumps(parts).encode()).digest()


class PageTokens:
    """Issues and reads page tokens with one key; the key is random if none is given."""

    def __init__(self, key: str | None) -> None:
        self._key = key.encode() if key else secrets.token_bytes(32)

    def issue(self, query: PageQuery, after: KeysetCursor) -> str:
        """Return the token of the page after a cursor."""
        position = _encode(after)
        return base64.urlsafe_b64encode(self._sign(query, position) + position).decode().rstrip("=")

    def read(self, query: PageQuery, token: str) -> KeysetCursor | None:
        """Return the cursor of a token, or None for the first page, which has no token.

        Raise `InvalidPageToken` if the token was not issued for this query.
        """
        if not token:
            return None
        try:
            signed = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidPageToken from None
        signature, position = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(query, position)):
            raise InvalidPageToken
        return _decode(position)

    def _sign(self, query: PageQuery, position: bytes) -> bytes:
        return hmac.digest(self._key, query.digest() + position, "sha256")[:_SIGNATURE_BYTES]


def page_size(requested: int) -> int:
    """Return the size of a page: 50 for 0, and 1000 for more than 1000."""
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def within_size_limit(messages: Iterable[MessageT]) -> Iterator[MessageT]:
    """Yield messages up to the size limit of a page, and at least one."""
    size = 0
    for message in messages:
        size += message.ByteSize()
        if size > MAX_PAGE_BYTES and size > message.ByteSize():
            return
        yield message


def _encode(after: KeysetCursor) -> bytes:
    if isinstance(after.value, datetime):
        return json.dumps(["t", after.value.astimezone(UTC).isoformat(), str(after.id)]).encode()
    return json.dumps(["s", after.value, str(after.id)]).encode()


def _decode(position: bytes) -> KeysetCursor:
    kind, value, key = json.loads(position)
    return KeysetCursor(datetime.fromisoformat(value) if kind == "t" else value, UUID(key))
