"""Page tokens: where the next page begins, signed and bound to the query.

A token is the place after the last row, sealed with HMAC-SHA256 over the place and the
query: it cannot be made up, and it fits no other filter, order or method.
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
from tamatar_auth.storage.repositories.keyset import KeysetCursor

MessageT = TypeVar("MessageT", bound=Message)

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

MAX_PAGE_BYTES = 3 * 1024 * 1024
"""Clients refuse messages of more than 4 MiB unless told otherwise, so a page ends before."""

_SIGNATURE_BYTES = 16  # 128 bits: RFC 2104 asks for half of the digest at least


class PageQuery(NamedTuple):
    """What a token belongs to: the method, its order and its filter."""

    method: str
    order: str
    matching: Message

    def digest(self) -> bytes:
        """Give what stands for the query in a seal."""
        parts = (self.method, self.order, self.matching.SerializeToString(deterministic=True).hex())
        return hashlib.sha256(json.dumps(parts).encode()).digest()


class PageTokens:
    """Issues and reads page tokens with one key; a random one when none is given."""

    def __init__(self, key: str | None) -> None:
        self._key = key.encode() if key else secrets.token_bytes(32)

    def issue(self, query: PageQuery, after: KeysetCursor) -> str:
        """Give the token of the page that begins after a place."""
        position = _encode(after)
        return base64.urlsafe_b64encode(self._sign(query, position) + position).decode().rstrip("=")

    def read(self, query: PageQuery, token: str) -> KeysetCursor | None:
        """Return the place that a token names, None for the first page.

        Raise `InvalidPageToken` for a token that was not issued for this query.
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
    """Give the size of a page: 0 means 50, more than 1000 means 1000."""
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def within_size_limit(messages: Iterable[MessageT]) -> Iterator[MessageT]:
    """Give as many messages as a page has room for, and one at least."""
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
