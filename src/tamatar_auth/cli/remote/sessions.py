"""The commands of `session`."""

from typing import Annotated, Any

import typer

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.options import (
    ContextOption,
    OutputOption,
    YesOption,
    confirm,
    open_client,
    read_secret_line,
)
from tamatar_auth.cli.remote.output import OutputFormat, as_dict, show, show_all
from tamatar_auth.cli.remote.users import UserArgument, get_user

COLUMNS = {
    "session_id": "Id",
    "create_time": "Created",
    "last_activity_time": "Last seen",
    "expire_time": "Expires",
    "revoke_time": "Ended",
    "ip_address": "Address",
    "user_agent": "Client",
}


def show_sessions(
    who: UserArgument,
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Also list ended sessions.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="List at most this many.")] = 50,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """List the sessions of a user. The newest session comes first."""
    with open_client(context) as auth:
        user_id = get_user(auth, who, deleted=ended).user.user_id
        request = pb.ListSessionsRequest(user_id=user_id, include_ended=ended, page_size=limit)
        page = auth.sessions.ListSessions(request)
    rows = [_with_client_columns(as_dict(session), output) for session in page.sessions]
    show_all(rows, output, COLUMNS)
    if page.next_page_token:
        notify(f"There are more than {limit}: use --limit to list more.")


def revoke(
    session_id: Annotated[str, typer.Argument(help="The id of the session.")] = "",
    *,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="End the session whose token is in stdin.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """End a session."""
    if bool(session_id) is token_stdin:
        raise usage_error("Name a session, or use --token-stdin.")
    request = pb.RevokeSessionRequest()
    if token_stdin:
        request.session_token = read_secret_line("token")
    else:
        request.session_id = session_id
    with open_client(context) as auth:
        response = auth.sessions.RevokeSession(request)
    show(as_dict(response.session), output)


def revoke_user(
    who: UserArgument,
    *,
    except_session_id: Annotated[
        str, typer.Option("--except", metavar="SESSION_ID", help="Keep this session.")
    ] = "",
    yes: YesOption = False,
    context: ContextOption = None,
) -> None:
    """End a user's sessions."""
    with open_client(context) as auth:
        user = get_user(auth, who).user
        confirm(f"End all sessions of {user.email}?", yes=yes)
        request = pb.RevokeUserSessionsRequest(
            user_id=user.user_id, except_session_id=except_session_id
        )
        response = auth.sessions.RevokeUserSessions(request)
    notify(f"{response.revoked_session_count} sessions were ended.")


def _with_client_columns(session: dict[str, Any], output: OutputFormat) -> dict[str, Any]:
    return {**session, **session.get("client", {})} if output is OutputFormat.TABLE else session
