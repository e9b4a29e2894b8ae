"""The commands about sessions."""

from typing import Annotated, Any

import typer

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar_auth.cli.exits import misused
from tamatar_auth.cli.remote.options import As, InContext, Yes, called, confirm, line_of_input
from tamatar_auth.cli.remote.output import Output, as_dict, say, show, show_all
from tamatar_auth.cli.remote.user_lookup import Who, find

sessions = typer.Typer(
    help="Look at sessions and end them.", no_args_is_help=True, rich_markup_mode=None
)

COLUMNS = {
    "session_id": "Id",
    "create_time": "Created",
    "last_activity_time": "Last seen",
    "expire_time": "Expires",
    "revoke_time": "Ended",
    "ip_address": "Address",
    "user_agent": "Client",
}


@sessions.command("list")
def show_sessions(
    who: Who,
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Show those that ended, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Show the sessions of a user, the newest first."""
    with called(context) as auth:
        user_id = find(auth, who, deleted=ended).user.user_id
        request = pb.ListSessionsRequest(user_id=user_id, include_ended=ended, page_size=limit)
        page = auth.sessions.ListSessions(request)
    show_all([_flat(as_dict(one), output) for one in page.sessions], output, COLUMNS)
    if page.next_page_token:
        say(f"There are more than {limit}: say --limit.")


@sessions.command("revoke")
def revoke(
    session_id: Annotated[str, typer.Argument(help="The session's id.")] = "",
    *,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="The session whose token is in the input.")
    ] = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """End a session."""
    if bool(session_id) is token_stdin:
        raise misused("Name a session, or say --token-stdin.")
    request = pb.RevokeSessionRequest()
    if token_stdin:
        request.session_token = line_of_input("token")
    else:
        request.session_id = session_id
    with called(context) as auth:
        answer = auth.sessions.RevokeSession(request)
    show(as_dict(answer.session), output)


@sessions.command("revoke-user")
def revoke_user(
    who: Who,
    *,
    but: Annotated[
        str, typer.Option("--except", metavar="SESSION_ID", help="A session that goes on.")
    ] = "",
    yes: Yes = False,
    context: InContext = None,
) -> None:
    """End all sessions of a user."""
    with called(context) as auth:
        user = find(auth, who).user
        confirm(f"End all sessions of {user.email}?", yes=yes)
        request = pb.RevokeUserSessionsRequest(user_id=user.user_id, except_session_id=but)
        answer = auth.sessions.RevokeUserSessions(request)
    say(f"{answer.revoked_session_count} sessions were ended.")


def _flat(session: dict[str, Any], output: Output) -> dict[str, Any]:
    return {**session, **session.get("client", {})} if output is Output.TABLE else session
