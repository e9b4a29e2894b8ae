"""The commands of `user` that read, and how all commands find and show a user."""

from typing import Annotated, Any
from uuid import UUID

import typer

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.cli.formats import Listing, OutputFormat, OutputOption, show, show_all
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import open_client
from tamatar_auth.cli.remote.user_filters import (
    ActiveOption,
    CreatedBeforeOption,
    CreatedFromOption,
    DeletedOption,
    EmailPrefixOption,
    UsernamePrefixOption,
    VerifiedOption,
    user_filter,
)
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
        "assurance_level": "Level",
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
    email: EmailPrefixOption = None,
    username: UsernamePrefixOption = None,
    verified: VerifiedOption = None,
    active: ActiveOption = None,
    deleted: DeletedOption = False,
    created_from: CreatedFromOption = None,
    created_before: CreatedBeforeOption = None,
    order: Annotated[
        str, typer.Option(help="Sort by create_time, update_time or email, optionally desc.")
    ] = "create_time desc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many.")] = 50,
    page_token: PageTokenOption = "",
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """List users, the newest first. `tamatar-auth export` writes all of them to a file."""
    matching = user_filter(
        email=email,
        username=username,
        verified=verified,
        active=active,
        deleted=deleted,
        created_from=created_from,
        created_before=created_before,
    )
    with open_client(ctx) as auth:
        page = _list_users(auth, matching, order, limit, page_token)
    show_all(as_dict(page), output, USERS)
    notify_of_more(page.next_page_token, limit, _total(page))


def show_stats(  # noqa: PLR0913 - options of a command, each named
    *,
    email: EmailPrefixOption = None,
    username: UsernamePrefixOption = None,
    verified: VerifiedOption = None,
    active: ActiveOption = None,
    deleted: DeletedOption = False,
    created_from: CreatedFromOption = None,
    created_before: CreatedBeforeOption = None,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Count users. The first and the last time of a creation are shown, too."""
    matching = user_filter(
        email=email,
        username=username,
        verified=verified,
        active=active,
        deleted=deleted,
        created_from=created_from,
        created_before=created_before,
    )
    with open_client(ctx) as auth:
        response = auth.users.GetUserStats(pb.GetUserStatsRequest(filter=matching))
    figures = as_dict(response)
    if output not in {OutputFormat.JSON, OutputFormat.NAME}:
        del figures["user_count_is_estimate"]
        figures["user_count"] = _count(response.user_count, response.user_count_is_estimate)
    show(figures, output, name="user_count")


def notify_of_more(next_page_token: str, limit: int, total: str = "") -> None:
    """Print how to list more, and how many there are, if there is a next page."""
    if next_page_token:
        number = total or f"more than {limit}"
        notify(f"There are {number}: use --limit or --page-token to list more.")


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
    auth: AuthClient, matching: pb.UserFilter, order: str, limit: int, page_token: str
) -> pb.ListUsersResponse:
    """Return at most `limit` users, which are read page by page, as one page."""
    found = pb.ListUsersResponse(next_page_token=page_token)
    while True:
        request = pb.ListUsersRequest(
            filter=matching,
            order_by=order,
            page_size=min(limit - len(found.users), MAX_PAGE_SIZE),
            page_token=found.next_page_token,
            include_total=not found.next_page_token,
        )
        # A merge appends to lists and replaces the token, unless it is empty.
        found.next_page_token = ""
        found.MergeFrom(auth.users.ListUsers(request))
        if not found.next_page_token or len(found.users) >= limit:
            return found


def user_with_profile(response: Any) -> dict[str, Any]:
    """Return the fields of the user in a response, with its profile."""
    return {**as_dict(response.user), "profile": as_dict(response.profile)}


def _total(page: pb.ListUsersResponse) -> str:
    """Return the total of a list, or an empty text if it began with a later page."""
    if not page.HasField("total_size"):
        return ""
    return _count(page.total_size, page.total_size_is_estimate)


def _count(number: int, is_estimate: bool) -> str:  # noqa: FBT001 - a field of the response
    return f"~{number:,}" if is_estimate else f"{number:,}"


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
