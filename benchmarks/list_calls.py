"""The calls of `make bench SCALE=`: the rows of a page of docs, and all combinations."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.user_filters import Deleted, UserFilter, UserOrder

NOW = datetime.now(UTC)
CREATED, UPDATED, EMAIL = UserOrder(), UserOrder("updated_at"), UserOrder("email")
NEWEST, LATEST, LAST_ADDRESS = (
    UserOrder(column, descending=True) for column in ("created_at", "updated_at", "email")
)
DEEP = {
    "created_at": KeysetCursor(NOW - timedelta(days=900), UUID(int=0)),
    "updated_at": KeysetCursor(NOW - timedelta(days=400), UUID(int=0)),
    "email": KeysetCursor("lucas", UUID(int=0)),
}

ROWS: Sequence[tuple[str, UserFilter, UserOrder, bool]] = (
    ("all, create_time, first", UserFilter(), CREATED, False),
    ("all, create_time, deep", UserFilter(), CREATED, True),
    ("all, update_time desc, first", UserFilter(), LATEST, False),
    ("all, email, deep", UserFilter(), EMAIL, True),
    ("unverified, create_time, first", UserFilter(email_verified=False), CREATED, False),
    (
        "inactive, email desc, first",
        UserFilter(is_active=False),
        LAST_ADDRESS,
        False,
    ),
    ("deleted only, update_time, first", UserFilter(deleted=Deleted.ONLY), UPDATED, False),
    ("deleted too, create_time, deep", UserFilter(deleted=Deleted.INCLUDE), CREATED, True),
    (
        "email prefix maria (one in eight), email, first",
        UserFilter(email_prefix="maria"),
        EMAIL,
        False,
    ),
    (
        "email prefix maria (one in eight), newest first",
        UserFilter(email_prefix="maria"),
        NEWEST,
        False,
    ),
    (
        "email prefix of one in 180, update_time, first",
        UserFilter(email_prefix="maria.w"),
        UPDATED,
        False,
    ),
    (
        "email prefix of an old import, newest first",
        UserFilter(email_prefix="legacy"),
        NEWEST,
        False,
    ),
    (
        "username prefix of few, create_time, first",
        UserFilter(username_prefix="maria_77"),
        CREATED,
        False,
    ),
    (
        "created on one day, email, first",
        UserFilter(
            created_from=NOW - timedelta(days=500), created_before=NOW - timedelta(days=499)
        ),
        EMAIL,
        False,
    ),
    (
        "two ranges with no common user, email, first",
        UserFilter(username_prefix="old_", created_from=NOW - timedelta(days=900)),
        EMAIL,
        False,
    ),
)

CONDITIONS: Mapping[str, Sequence[Any]] = {
    "email_prefix": (None, "maria", "legacy"),
    "username_prefix": (None, "old_"),
    "email_verified": (None, False),
    "is_active": (None, False),
    "created_from": (None, NOW - timedelta(days=900)),
    "deleted": tuple(Deleted),
}
"""Wide ranges, because these are slow. Some have no user in common."""


def filters() -> Iterator[UserFilter]:
    """Yield the filter of each combination of conditions."""
    for values in itertools.product(*CONDITIONS.values()):
        yield UserFilter(**dict(zip(CONDITIONS, values, strict=True)))


def label_of(matching: UserFilter) -> str:
    """Return a short text for a filter."""
    named = {name: getattr(matching, name) for name in CONDITIONS}
    named["deleted"] = None if matching.deleted is Deleted.EXCLUDE else matching.deleted.value
    named["created_from"] = matching.created_from and "half"
    return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
