"""What validation reads: the statement, and its rows as PostgreSQL writes them.

Nothing is made of a row but the answer to a call, and validation is asked most of all. So ids
come as text and moments as numbers, which are put into messages as they are: to make objects of
them, and to write those again, takes longer than all else that is done with a row.
"""

from collections.abc import Sequence
from struct import pack
from typing import Any, TypeAlias

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    LargeBinary,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    select,
    union_all,
)

from tamatar_auth.storage.repositories.session_state import in_grace, is_stale, refusal
from tamatar_auth.storage.tables import sessions, users

ValidatedRow: TypeAlias = Sequence[Any]
"""The values of `COLUMNS`, and those of `refusal` and `is_stale`, which are read by place."""

COLUMNS: Sequence[ColumnElement[Any]] = (
    cast(sessions.c.id, Text),
    cast(sessions.c.user_id, Text),
    sessions.c.created_at,
    sessions.c.expires_at,
    sessions.c.last_activity_at,
    sessions.c.user_agent,
    func.host(sessions.c.ip_address),
    users.c.email,
    users.c.username,
    users.c.first_name,
    users.c.last_name,
    users.c.full_name,
    users.c.avatar_url,
    users.c.email_verified,
    users.c.version,
    users.c.created_at,
    users.c.updated_at,
    users.c.last_login_at,
)
"""A good session and its user. What says that they are none is not among it: a session that was
revoked, and a user that is deleted or not active, are refused. Moments come as microseconds since
2000-01-01."""

REFUSAL, IS_STALE, DIGEST = range(len(COLUMNS), len(COLUMNS) + 3)
"""The places of what follows. The digest is the token's; it is not a part of the row that calls
see."""


def _select_by(digest: ColumnElement[Any]) -> Select[Any]:
    found = select(*COLUMNS, refusal, is_stale, digest)
    found = found.join_from(sessions, users, users.c.id == sessions.c.user_id)
    return found.where(digest == any_(bindparam("digests", type_=ARRAY(LargeBinary))))


sessions_by_digest: CompoundSelect[Any] = union_all(
    _select_by(sessions.c.token_digest), _select_by(sessions.c.previous_digest).where(in_grace)
).execution_options(summary="SELECT sessions users")
"""The sessions of tokens, good or not: of `digests`, which are `Digests`.

Either kind of token by itself: with an OR, PostgreSQL compares each row with every digest.
"""


class Digests(frozenset[bytes]):
    """Digests of tokens, 32 bytes each, as a value of a statement."""

    __slots__ = ()


class _DigestsDumper(Dumper):
    """Writes them as PostgreSQL reads an array: psycopg would take ten times as long."""

    format = Format.BINARY
    oid = types["bytea"].array_oid

    def dump(self, obj: Digests) -> bytes:
        header = pack("!5i", 1, 0, types["bytea"].oid, len(obj), 1)
        return header + _LENGTH.join([b"", *obj])


_LENGTH = pack("!i", 32)

psycopg.adapters.register_dumper(Digests, _DigestsDumper)
