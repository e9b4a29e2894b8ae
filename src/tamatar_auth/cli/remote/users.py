"""The commands of `user` that read, and how all commands find and show a user."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.cli.formats import Listing, OutputFormat, OutputOption, show, show_all
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import open_client
from tamatar_auth.client import AuthClient

UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="The id, the email address or the username of the user."),
]

PageTokenOption = Annotated[
    str, typer.Option(metavar="TOKEN", help="Continue after the page with this next_page_token.")
]

MAX_PAGE_SIZE = 500

USERS = Listing(
    field="users",
    columns={
        "user_id": "Id",
        "email": "Email",
        "is_active": "Active",
        "email_verified": "Verified",
        "username": "Username",
        "full_name": "Name",
        "create_time": "Created",
        "delete_time": "Deleted",
    },
    kept=2,
)

RECENT_SESSIONS = Listing(
    field="recent_sessions",
    columns={
        "session_id": "Session",
        "create_time": "Created",
        "last_activity_time": "Last seen",
        "expire_time": "Expires",
    },
)


def get(
    who: UserArgument,
    *,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Also show the live sessions, at most ten.")
    ] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also find a deleted user.")] = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Show a user and its profile."""
    with open_client(ctx) as auth:
        response = get_user(auth, who, deleted=deleted, sessions=sessions)
    user = user_with_profile(response)
    recent = {"recent_sessions": [as_dict(session) for session in response.recent_sessions]}
    if sessions and output is OutputFormat.JSON:
        user |= recent
    show(user, output, name="user_id")
    if sessions and output in {OutputFormat.TABLE, OutputFormat.WIDE}:
        show_all(recent, output, RECENT_SESSIONS)


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
    page_token: PageTokenOption = "",
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
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
    with open_client(ctx) as auth:
        page = _list_users(auth, user_filter, order, limit, page_token)
    show_all(as_dict(page), output, USERS)
    notify_of_more(page.next_page_token, limit)


def notify_of_more(next_page_token: str, limit: int) -> None:
    """Print how to list more if there is a next page."""
    if next_page_token:
        notify(f"There are more than {limit}: use --limit or --page-token to list more.")


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
    auth: AuthClient, user_filter: pb.UserFilter, order: str, limit: int, page_token: str
) -> pb.ListUsersResponse:
    """Return at most `limit` users, which are read page by page, as one page."""
    found = pb.ListUsersResponse(next_page_token=page_token)
    while True:
        request = pb.ListUsersRequest(
            filter=user_filter,
            order_by=order,
            page_size=min(limit - len(found.users), MAX_PAGE_SIZE),
            page_token=found.next_page_token,
        )
        # A merge appends to lists and replaces the token, unless it is empty.
        found.next_page_token = ""
        found.MergeFrom(auth.users.ListUsers(request))
        if not found.next_page_token or len(found.users) >= limit:
            return found


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
