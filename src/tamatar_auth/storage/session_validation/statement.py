"""The statement of validation, and its rows as PostgreSQL sends them.

A row becomes nothing but an answer, and ValidateSession is the most frequent call. So ids are
text and times are numbers, which go into messages unchanged. UUID and datetime objects would
take longer than all other work on a row.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any, TypeAlias

import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from sqlalchemy import (
    any_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.sql import ColumnElement, CompoundSelect, Select, functions, visitors
from sqlalchemy.types import ARRAY, Boolean, DateTime, LargeBinary, Text

from tamatar_auth.storage.acknowledgement import is_confirmed
from tamatar_auth.storage.repositories.session_state import (
    authenticated_at,
    in_grace,
    is_stale,
    refusal,
)
from tamatar_auth.storage.repositories.token_keys import (
    NO_DAY,
    TokenKey,
    expires_on_day,
    is_between,
)
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
    *(authenticated_at, sessions.c.authentication_methods, func.now()),
)
"""A valid session and its user. Columns such as `revoked_at` are left out, because they are NULL
in a valid session and user. Times are microseconds since 2000-01-01."""

EXPIRES_AT = 3
"""The position of `sessions.expires_at` in `COLUMNS`."""

AUTHENTICATED_AT, METHODS, NOW = range(len(COLUMNS) - 3, len(COLUMNS))
"""The positions of what decides whether the user was authenticated strongly and recently."""

REFUSAL, IS_STALE, DIGEST = range(len(COLUMNS), len(COLUMNS) + 3)
"""The positions after `COLUMNS`. The digest of the token is removed before a call gets the row."""

IS_CONFIRMED = IS_STALE
"""The position in the row without a digest that says whether the primary is confirmed."""


_MOMENT = DateTime(timezone=True)
_digests = bindparam("digests", type_=ARRAY(LargeBinary))
_keys = (
    func.unnest(
        _digests,
        bindparam("starts", type_=ARRAY(_MOMENT)),
        bindparam("ends", type_=ARRAY(_MOMENT)),
    )
    .table_valued(column("digest", LargeBinary), column("start", _MOMENT), column("end", _MOMENT))
    .render_derived("keys")
)


def _select_by(digest: ColumnElement[Any]) -> Select[Any]:
    """Select the sessions of keys that all have one day."""
    found = select(*COLUMNS, refusal, is_stale, digest)
    found = found.join_from(sessions, users, users.c.id == sessions.c.user_id)
    return found.where(digest == any_(_digests), expires_on_day)


def _select_each_by(digest: ColumnElement[Any]) -> Select[Any]:
    """Select the sessions of keys that have several days, or none."""
    # PostgreSQL opens the partitions of `expires_on_day`, and looks in that of the key alone.
    is_on_day = is_between(sessions.c.expires_at, _keys.c.start, _keys.c.end)
    is_of_key = (digest == _keys.c.digest) & is_on_day
    found = select(*COLUMNS, refusal, is_stale, digest).select_from(_keys)
    found = found.join(sessions, is_of_key & expires_on_day)
    return found.join(users, users.c.id == sessions.c.user_id)


def _current_and_previous(
    select_by: Callable[[ColumnElement[Any]], Select[Any]],
) -> CompoundSelect[Any]:
    """Select by present tokens, and by replaced ones that still work.

    They are looked up separately. With an OR, PostgreSQL would compare each row with every digest.
    """
    previous = select_by(sessions.c.previous_digest).where(in_grace)
    found: CompoundSelect[Any] = union_all(select_by(sessions.c.token_digest), previous)
    return found.execution_options(summary="SELECT sessions users")


sessions_of_one_day = _current_and_previous(_select_by)
"""The sessions of the tokens in `digests`, valid or not, that expire on one day.

It takes a quarter less time for one token than `sessions_of_days`.
"""

sessions_of_days = _current_and_previous(_select_each_by)
"""The sessions of the tokens in `digests`, valid or not, that expire from `starts` to `ends`.

It takes a third less time for 32 tokens of a week than their lookup in each of the days.
"""


_now = cast(bindparam("now", type_=Text), DateTime(timezone=True))


def _replace_now(part: object, **_: object) -> ColumnElement[Any] | None:
    return _now if isinstance(part, functions.now) else None


sessions_at_time: CompoundSelect[Any] = visitors.replacement_traverse(  # type: ignore[call-overload]
    sessions_of_days, {}, _replace_now
)
"""The same at the time `now`, a text of PostgreSQL: standbys have clocks of their own."""


def with_proof(found: CompoundSelect[Any], within: timedelta) -> CompoundSelect[Any]:
    """Add a row without a digest. At `IS_CONFIRMED` it has whether the primary is confirmed."""
    no_session = [null() for _ in (*COLUMNS, refusal)]
    confirmed = literal_column(is_confirmed(within), Boolean)
    proof: Any = select(*no_session, confirmed, null())
    both: CompoundSelect[Any] = union_all(*found.selects, proof)
    return both.execution_options(**found.get_execution_options())


def of_one_day(keys: Collection[TokenKey]) -> Mapping[str, object] | None:
    """Return the parameters of `sessions_of_one_day`, or None if the keys have several days."""
    days = {key.day for key in keys}
    if len(days) > 1 or None in days:
        return None
    return {"digests": Digests([key.digest for key in keys]), **_bounds(days)}


def of_days(keys: Collection[TokenKey]) -> Mapping[str, object]:
    """Return the parameters of `sessions_of_days`: keys with any days."""
    # Malformed tokens do not widen the range, because no session is theirs.
    bounds = _bounds({key.day for key in keys} - {NO_DAY} or {NO_DAY})
    starts, ends = zip(*(_period({key.day}) for key in keys), strict=True)
    digests = Digests([key.digest for key in keys])
    return {"digests": digests, "starts": Moments(starts), "ends": Moments(ends), **bounds}


def by_key(
    keys: Collection[TokenKey], found: Mapping[bytes, ValidatedRow]
) -> Mapping[TokenKey, ValidatedRow]:
    """Return the rows that were found by their digests, each under its key."""
    return {key: found[key.digest] for key in keys if key.digest in found}


def _bounds(days: Collection[int | None]) -> Mapping[str, object]:
    start, end = _period(days)
    return {"day_start": Moment(start), "day_end": Moment(end)}


def _period(days: Collection[int | None]) -> tuple[int, int]:
    """Return when days start and end, in microseconds since 2000-01-01."""
    known = [day for day in days if day is not None]
    if len(known) < len(days):
        return _ANY_TIME
    return (min(known) - 1) * _DAY, max(known) * _DAY - 1


_DAY = 86_400_000_000
_FIRST_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_ANY_TIME = (-(2**63), 2**63 - 1)
"""PostgreSQL's -infinity and infinity."""


def moment(microseconds: int) -> datetime:
    """Return a time of a row, in microseconds since 2000-01-01, as a datetime."""
    return _FIRST_MOMENT + timedelta(microseconds=microseconds)


class Digests(tuple[bytes, ...]):
    """Digests of tokens, 32 bytes each, as a parameter of a statement."""

    __slots__ = ()


class Moments(tuple[int, ...]):
    """Microseconds since 2000-01-01, as a parameter of a statement."""

    __slots__ = ()


class Moment(int):
    """A number of microseconds since 2000-01-01, as a parameter of a statement."""

    __slots__ = ()


class _DigestsDumper(Dumper):
    """Encodes an array of PostgreSQL, ten times faster than psycopg."""

    format = Format.BINARY
    oid = types["bytea"].array_oid

    def dump(self, obj: Digests) -> bytes:
        header = pack("!5i", 1, 0, types["bytea"].oid, len(obj), 1)
        return header + _LENGTH.join([b"", *obj])


class _MomentsDumper(Dumper):
    format = Format.BINARY
    oid = types["timestamptz"].array_oid

    def dump(self, obj: Moments) -> bytes:
        header = pack("!5i", 1, 0, types["timestamptz"].oid, len(obj), 1)
        return header + b"".join([pack("!iq", 8, each) for each in obj])


class _MomentDumper(Dumper):
    format = Format.BINARY
    oid = types["timestamptz"].oid

    def dump(self, obj: Moment) -> bytes:
        return pack("!q", obj)


_LENGTH = pack("!i", 32)

psycopg.adapters.register_dumper(Digests, _DigestsDumper)
psycopg.adapters.register_dumper(Moments, _MomentsDumper)
psycopg.adapters.register_dumper(Moment, _MomentDumper)
