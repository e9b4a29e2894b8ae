"""The statement of validation, and its rows as PostgreSQL sends them.

A row becomes nothing but an answer, and ValidateSession is the most frequent call. So ids are
text and times are numbers, which go into messages unchanged. UUID and datetime objects would
take longer than all other work on a row.
"""

from collections.abc import Sequence
from datetime import timedelta
from struct import pack
from typing import Any, TypeAlias

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from sqlalchemy import any_, bindparam, cast, func, literal_column, null, select, union_all
from sqlalchemy.sql import ColumnElement, CompoundSelect, Select, functions, visitors
from sqlalchemy.types import ARRAY, Boolean, DateTime, LargeBinary, Text

from tamatar_auth.storage.acknowledgement import is_confirmed
from tamatar_auth.storage.repositories.session_state import in_grace, is_stale, refusal
from tamatar_auth.storage.tables import sessions, users

ValidatedRow: TypeAlias = Sequence[Any]
"""The values of `COLUMNS`, `refusal` and `is_stale`, read by position."""

COLUMNS: Sequence[ColumnElement[Any]] = (
    cast(sessions.c.id, Text),
    cast(sessions.c.user_id, Text),
    *sessions.c["created_at", "expires_at", "last_activity_at", "user_agent"],
    func.host(sessions.c.ip_address),
    *users.c["email", "username", "first_name", "last_name", "full_name", "avatar_url"],
    *users.c["email_verified", "version", "created_at", "updated_at", "last_login_at"],
)
"""A valid session and its user. Columns such as `revoked_at` are left out, because they are NULL
in a valid session and user. Times are microseconds since 2000-01-01."""

REFUSAL, IS_STALE, DIGEST = range(len(COLUMNS), len(COLUMNS) + 3)
"""The positions after `COLUMNS`. The digest of the token is removed before a call gets the row."""

IS_CONFIRMED = IS_STALE
"""The position in the row without a digest that says whether the primary is confirmed."""


def _select_by(digest: ColumnElement[Any]) -> Select[Any]:
    found = select(*COLUMNS, refusal, is_stale, digest)
    found = found.join_from(sessions, users, users.c.id == sessions.c.user_id)
    return found.where(digest == any_(bindparam("digests", type_=ARRAY(LargeBinary))))


sessions_by_digest: CompoundSelect[Any] = union_all(
    _select_by(sessions.c.token_digest), _select_by(sessions.c.previous_digest).where(in_grace)
).execution_options(summary="SELECT sessions users")
"""The sessions of the tokens in `digests` (`Digests`), valid or not.

Current and previous tokens are looked up separately. With an OR, PostgreSQL would compare each
row with every digest.
"""

_now = cast(bindparam("now", type_=Text), DateTime(timezone=True))


def _replace_now(part: object, **_: object) -> ColumnElement[Any] | None:
    return _now if isinstance(part, functions.now) else None


sessions_at_time: CompoundSelect[Any] = visitors.replacement_traverse(  # type: ignore[call-overload]
    sessions_by_digest, {}, _replace_now
)
"""The same at the time `now`, a text of PostgreSQL: standbys have clocks of their own."""


def with_proof(found: CompoundSelect[Any], within: timedelta) -> CompoundSelect[Any]:
    """Add a row without a digest; its value at `IS_CONFIRMED` tells about the primary."""
    no_session = [null() for _ in (*COLUMNS, refusal)]
    confirmed = literal_column(is_confirmed(within), Boolean)
    proof: Any = select(*no_session, confirmed, null())
    both: CompoundSelect[Any] = union_all(*found.selects, proof)
    return both.execution_options(**found.get_execution_options())


class Digests(frozenset[bytes]):
    """Digests of tokens, 32 bytes each, as a parameter of a statement."""

    __slots__ = ()


class _DigestsDumper(Dumper):
    """Encodes an array of PostgreSQL, ten times faster than psycopg."""

    format = Format.BINARY
    oid = types["bytea"].array_oid

    def dump(self, obj: Digests) -> bytes:
        header = pack("!5i", 1, 0, types["bytea"].oid, len(obj), 1)
        return header + _LENGTH.join([b"", *obj])


_LENGTH = pack("!i", 32)

psycopg.adapters.register_dumper(Digests, _DigestsDumper)
