"""What validation reads: the statement, and its rows as PostgreSQL writes them.

Nothing is made of a row but the answer to a call, and validation is asked most of all. So ids
come as text and moments as numbers, which are put into messages as they are: to make objects of
them, and to write those again, takes longer than all else that is done with a row.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    LargeBinary,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    select,
    union_all,
)

from tamatar_auth.storage.sessions import SESSION_COLUMNS, in_grace, is_stale, refusal
from tamatar_auth.storage.tables import sessions, users
from tamatar_auth.storage.users import USER_COLUMNS

ValidatedRow: TypeAlias = Sequence[Any]
"""The columns of a session and of its user, `refusal` and `is_stale`, which are read by place.
Ids are text; moments are microseconds since 2000-01-01."""

SESSION_ENDS = len(SESSION_COLUMNS)
USER_ENDS = SESSION_ENDS + len(USER_COLUMNS)
REFUSAL, IS_STALE, DIGEST = range(USER_ENDS, USER_ENDS + 3)
"""The places of what follows the columns of the user. The digest is the token's; it is not a
part of the row that calls see."""


def _written(columns: Iterable[ColumnElement[Any]]) -> Iterable[ColumnElement[Any]]:
    """Let PostgreSQL write ids, which takes it a tenth of what it takes Python."""
    for column in columns:
        yield cast(column, Text) if isinstance(column.type, Uuid) else column


def _with(digest: ColumnElement[Any]) -> Select[Any]:
    columns = _written([*SESSION_COLUMNS, *USER_COLUMNS, refusal, is_stale, digest])
    found = select(*columns).join(users, users.c.id == sessions.c.user_id)
    return found.where(digest == any_(cast(bindparam("digests", type_=Text), ARRAY(LargeBinary))))


of_digests: CompoundSelect[Any] = union_all(
    _with(sessions.c.token_digest), _with(sessions.c.previous_digest).where(in_grace)
)
"""The sessions of tokens, good or not. `digests_value` gives the value of `digests`.

Either kind of token by itself: with an OR, PostgreSQL compares each row with every digest.
"""


def digests_value(digests: Iterable[bytes]) -> str:
    """Write digests as PostgreSQL reads an array. Psycopg would take three times as long."""
    return "{" + ",".join([f'"\\\\x{digest.hex()}"' for digest in digests]) + "}"
