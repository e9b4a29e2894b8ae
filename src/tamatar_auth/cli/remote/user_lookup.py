"""Users as the commands find and show them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.cli.remote.output import as_dict
from tamatar_auth.client import AuthClient

UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="The id, the email address or the username of the user."),
]

_PAGE_SIZE = 500

_CreatedRange = tuple[datetime | None, datetime | None]


def get_user(
    auth: AuthClient, identifier: str, *, deleted: bool = False, sessions: bool = False
) -> pb.GetUserResponse:
    """Return the user with this id, email address or username."""
    request = pb.GetUserRequest(
        include_profile=True, include_deleted=deleted, include_recent_sessions=sessions
    )
    if "@" in identifier:
        request.email = identifier
    elif _is_id(identifier):
        request.user_id = identifier
    else:
        request.username = identifier
    return auth.users.GetUser(request)


def get_user_id(auth: AuthClient, identifier: str, *, deleted: bool = False) -> str:
    """Return the id of the user with this id, email address or username."""
    return get_user(auth, identifier, deleted=deleted).user.user_id


def build_filter(  # noqa: PLR0913 - conditions, each named
    *,
    email: str | None,
    username: str | None,
    verified: bool | None,
    active: bool | None,
    deleted: bool,
    created: _CreatedRange,
) -> pb.UserFilter:
    """Return a filter of the conditions that are not None."""
    user_filter = pb.UserFilter(
        email_prefix=email,
        username_prefix=username,
        email_verified=verified,
        is_active=active,
        created_from=_timestamp(created[0]),
        created_before=_timestamp(created[1]),
    )
    if deleted:
        user_filter.deleted = pb.DELETED_FILTER_ONLY
    return user_filter


def list_users(
    auth: AuthClient, user_filter: pb.UserFilter, order: str, limit: int
) -> tuple[Sequence[User], bool]:
    """Return at most `limit` users, read page by page, and whether there are more."""
    found: list[User] = []
    token = ""
    while True:
        request = pb.ListUsersRequest(
            filter=user_filter,
            order_by=order,
            page_size=min(limit - len(found), _PAGE_SIZE),
            page_token=token,
        )
        page = auth.users.ListUsers(request)
        found += page.users
        token = page.next_page_token
        if not token or len(found) >= limit:
            return found, bool(token)


def user_with_profile(response: Any) -> dict[str, Any]:
    """Return the fields of the user in a response, with its profile."""
    return {**as_dict(response.user), "profile": as_dict(response.profile)}


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    timestamp = Timestamp()
    # A time without a zone is UTC, like every time that is printed.
    timestamp.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    return timestamp
