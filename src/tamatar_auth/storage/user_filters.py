"""Which users are meant, and in what order: the same for rows, counts and aggregates."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement

from tamatar_auth.storage.tables import users


class Deleted(enum.Enum):
    """Whether a filter means deleted users."""

    EXCLUDE = "exclude"
    INCLUDE = "include"
    ONLY = "only"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """Describes users; a condition that is None allows everything."""

    email_prefix: str | None = None
    username_prefix: str | None = None
    email_verified: bool | None = None
    is_active: bool | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    deleted: Deleted = Deleted.EXCLUDE


class UserOrder(NamedTuple):
    """The order of a page; the id decides between equals."""

    column: Literal["created_at", "updated_at", "email"] = "created_at"
    descending: bool = False


def conditions(matching: UserFilter) -> Sequence[ColumnElement[bool]]:
    """Give the conditions of a filter: rows, counts and aggregates all obey these."""
    c, want = users.c, matching
    wanted = [*liveness(want.deleted)]
    if want.email_prefix is not None:
        wanted.append(c.email.startswith(want.email_prefix, autoescape=True))
    if want.username_prefix is not None:
        wanted.append(c.username.startswith(want.username_prefix, autoescape=True))
    if want.email_verified is not None:
        wanted.append(c.email_verified.is_(want.email_verified))
    if want.is_active is not None:
        wanted.append(c.is_active.is_(want.is_active))
    if want.created_from is not None:
        wanted.append(c.created_at >= want.created_from)
    if want.created_before is not None:
        wanted.append(c.created_at < want.created_before)
    return wanted


def liveness(deleted: Deleted) -> Sequence[ColumnElement[bool]]:
    """Give the condition that leaves deleted users out, or lets only them in."""
    match deleted:
        case Deleted.EXCLUDE:
            return (users.c.deleted_at.is_(None),)
        case Deleted.ONLY:
            return (users.c.deleted_at.is_not(None),)
        case Deleted.INCLUDE:
            return ()
