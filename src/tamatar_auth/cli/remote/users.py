"""The commands of `user` that read, and how all commands find and show a user."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.options import ContextOption, OutputOption, open_client
from tamatar_auth.cli.remote.output import OutputFormat, as_dict, show, show_all
from tamatar_auth.client import AuthClient

UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="The id, the email address or the username of the user."),
]

MAX_PAGE_SIZE = 500

COLUMNS = {
    "user_id": "Id",
    "email": "Email",
    "username": "Username",
    "full_name": "Name",
    "email_verified": "Verified",
    "is_active": "Active",
    "create_time": "Created",
    "delete_time": "Deleted",
}

SESSION_COLUMNS = {
    "session_id": "Session",
    "create_time": "Created",
    "last_activity_time": "Last seen",
    "expire_time": "Expires",
}


def get(
    who: UserArgument,
    *,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Also show the live sessions, at most ten.")
    ] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also find a deleted user.")] = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Show a user and its profile."""
    with open_client(context) as auth:
        response = get_user(auth, who, deleted=deleted, sessions=sessions)
    user = user_with_profile(response)
    recent = [as_dict(session) for session in response.recent_sessions]
    if sessions and output is OutputFormat.JSON:
        user["recent_sessions"] = recent
    show(user, output)
    if sessions and output is OutputFormat.TABLE:
        show_all(recent, output, SESSION_COLUMNS)


def show_users(  # noqa: PLR0913 - options of a command, each named
    *,
    email: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Match the start of the email address.")
    ] = None,
    username: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Match the start of the username.")
    ] = None,
    verified: Annotated[
        bool | None, typer.Option("--verified/--unverified", help="Match verified addresses.")
    ] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Match active users.")
    ] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="List only deleted users.")] = False,
    created_from: Annotated[
        datetime | None, typer.Option(help="Match users created at this time or later, in UTC.")
    ] = None,
    created_before: Annotated[
        datetime | None, typer.Option(help="Match users created before this time, in UTC.")
    ] = None,
    order: Annotated[
        str, typer.Option(help="Sort by create_time, update_time or email, optionally desc.")
    ] = "create_time desc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many.")] = 50,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """List users, the newest first. `tamatar-auth export` writes all of them to a file."""
    user_filter = pb.UserFilter(
        email_prefix=email,
        username_prefix=username,
        email_verified=verified,
        is_active=active,
        deleted=pb.DELETED_FILTER_ONLY if deleted else pb.DELETED_FILTER_UNSPECIFIED,
        created_from=_timestamp(created_from),
        created_before=_timestamp(created_before),
    )
    with open_client(context) as auth:
        found, has_more = _list_users(auth, user_filter, order, limit)
    show_all([as_dict(user) for user in found], output, COLUMNS)
    if has_more:
        notify(f"There are more than {limit}: use --limit to list more.")


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


def _list_users(
    auth: AuthClient, user_filter: pb.UserFilter, order: str, limit: int
) -> tuple[Sequence[User], bool]:
    """Return at most `limit` users, read page by page, and whether there are more."""
    found: list[User] = []
    token = ""
    while True:
        request = pb.ListUsersRequest(
            filter=user_filter,
            order_by=order,
            page_size=min(limit - len(found), MAX_PAGE_SIZE),
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
