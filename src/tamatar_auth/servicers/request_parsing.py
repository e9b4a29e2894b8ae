"""Fields of requests as values, with the checks that proto rules cannot express."""

from datetime import UTC, datetime, timedelta
from typing import Literal, cast
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.user_service_pb2 import DeletedFilter as DeletedFilterMessage
from tamatar.auth.v1.user_service_pb2 import UserFilter as UserFilterMessage
from tamatar_auth.errors import InvalidFields
from tamatar_auth.errors.users import EtagMismatch
from tamatar_auth.security.identifiers import normalize_prefix
from tamatar_auth.storage.repositories.user_filters import Deleted, UserFilter, UserOrder

_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)

_DELETED = {
    DeletedFilterMessage.DELETED_FILTER_UNSPECIFIED: Deleted.EXCLUDE,
    DeletedFilterMessage.DELETED_FILTER_EXCLUDE: Deleted.EXCLUDE,
    DeletedFilterMessage.DELETED_FILTER_INCLUDE: Deleted.INCLUDE,
    DeletedFilterMessage.DELETED_FILTER_ONLY: Deleted.ONLY,
}

_ORDERS = {
    "create_time": UserOrder("created_at"),
    "update_time": UserOrder("updated_at"),
    "email": UserOrder("email"),
}


def optional_id(text: str) -> UUID | None:
    """Return an optional id; the empty text is None."""
    return UUID(text) if text else None


def version_of(etag: str) -> int | None:
    """Return the version of an etag, or None if there is no etag.

    Raise `EtagMismatch` for an etag that no user can have.
    """
    if not etag:
        return None
    if not (etag.isascii() and etag.isdigit() and len(etag) < 10):  # noqa: PLR2004 - an integer
        raise EtagMismatch
    return int(etag)


def optional_time(message: Message, name: str, *, parent_path: str = "") -> datetime | None:
    """Return an optional timestamp, or raise `InvalidFields`.

    `parent_path` is the path of the message in the request, such as `filter.`.
    """
    if not message.HasField(name):
        return None
    stamp = cast("Timestamp", getattr(message, name))
    try:
        # PostgreSQL stores microseconds. A bound between two microseconds means the later one,
        # for "from" and for "before". The last microsecond has no later one.
        moment = stamp.ToDatetime(tzinfo=UTC)
        is_between = stamp.nanos % 1000 and moment < _LAST_MOMENT
        return moment + timedelta(microseconds=1) if is_between else moment
    except (ValueError, OverflowError):
        raise InvalidFields.field(
            f"{parent_path}{name}", "must be a time of the years 1 to 9999"
        ) from None


def user_filter(message: UserFilterMessage) -> UserFilter:
    """Return a filter. A condition that is not set is None, never an empty value."""
    return UserFilter(
        email_prefix=_prefix(message, "email_prefix"),
        username_prefix=_prefix(message, "username_prefix"),
        email_verified=message.email_verified if message.HasField("email_verified") else None,
        is_active=message.is_active if message.HasField("is_active") else None,
        created_from=optional_time(message, "created_from", parent_path="filter."),
        created_before=optional_time(message, "created_before", parent_path="filter."),
        deleted=_DELETED[message.deleted],
    )


def user_order(order_by: str) -> UserOrder:
    """Return an order: `create_time`, `update_time` or `email`, optionally with `desc`."""
    match order_by.split():
        case []:
            return UserOrder()
        case [name] if name in _ORDERS:
            return _ORDERS[name]
        case [name, "desc"] if name in _ORDERS:
            return _ORDERS[name]._replace(descending=True)
    raise InvalidFields.field(
        "order_by", f"must be one of {', '.join(_ORDERS)}, optionally followed by desc"
    )


def _prefix(
    message: UserFilterMessage, name: Literal["email_prefix", "username_prefix"]
) -> str | None:
    return normalize_prefix(getattr(message, name)) if message.HasField(name) else None
