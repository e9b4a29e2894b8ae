"""Users as people name and describe them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client import AuthClient

Who = Annotated[str, typer.Argument(help="The user: its id, its email address or its username.")]

_PAGE = 500

_Created = tuple[datetime | None, datetime | None]


def find(
    auth: AuthClient, who: str, *, deleted: bool = False, sessions: bool = False
) -> pb.GetUserResponse:
    """Find a user by its id, its address or its username."""
    request = pb.GetUserRequest(
        include_profile=True, include_deleted=deleted, include_recent_sessions=sessions
    )
    if "@" in who:
        request.email = who
    elif _is_id(who):
        request.user_id = who
    else:
        request.username = who
    return auth.users.GetUser(request)


def matching(  # noqa: PLR0913 - conditions, each named
    *,
    email: str | None,
    username: str | None,
    verified: bool | None,
    active: bool | None,
    deleted: bool,
    created: _Created,
) -> pb.UserFilter:
    """Describe users; what is None is not asked for."""
    said = pb.UserFilter(
        email_prefix=email,
        username_prefix=username,
        email_verified=verified,
        is_active=active,
        created_from=_moment(created[0]),
        created_before=_moment(created[1]),
    )
    if deleted:
        said.deleted = pb.DELETED_FILTER_ONLY
    return said


def pages(
    auth: AuthClient, said: pb.UserFilter, order: str, limit: int
) -> tuple[Sequence[User], bool]:
    """Read users page by page, as many as are wanted; tell whether there are more."""
    found: list[User] = []
    token = ""
    while True:
        request = pb.ListUsersRequest(
            filter=said,
            order_by=order,
            page_size=min(limit - len(found), _PAGE),
            page_token=token,
        )
        page = auth.users.ListUsers(request)
        found += page.users
        token = page.next_page_token
        if not token or len(found) >= limit:
            return found, bool(token)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _moment(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    moment = Timestamp()
    # A time without a zone is one of UTC, as everything that is printed.
    moment.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    return moment
