"""The commands of `user` that read."""

from datetime import datetime
from typing import Annotated

import typer

from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.options import ContextOption, OutputOption, open_client
from tamatar_auth.cli.remote.output import OutputFormat, as_dict, show, show_all
from tamatar_auth.cli.remote.user_lookup import (
    UserArgument,
    build_filter,
    get_user,
    list_users,
    user_with_profile,
)

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
    user_filter = build_filter(
        email=email,
        username=username,
        verified=verified,
        active=active,
        deleted=deleted,
        created=(created_from, created_before),
    )
    with open_client(context) as auth:
        found, has_more = list_users(auth, user_filter, order, limit)
    show_all([as_dict(user) for user in found], output, COLUMNS)
    if has_more:
        notify(f"There are more than {limit}: use --limit to list more.")
