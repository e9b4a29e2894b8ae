"""The commands of `session`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from tamatar.auth.v1 import session_service_pb2 as pb
from tamatar.auth.v1.session_pb2 import AssuranceLevel, SessionClient
from tamatar_auth import __version__
from tamatar_auth.cli.exits import CommandError, ExitCode, usage_error
from tamatar_auth.cli.formats import (
    Listing,
    OutputFormat,
    OutputOption,
    TextFormat,
    TextOption,
    show,
    show_all,
)
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.cli.remote.ages import parse_age
from tamatar_auth.cli.remote.challenges import answer_challenge
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import (
    PasswordStdinOption,
    YesOption,
    confirm,
    open_client,
    read_secret,
    read_secret_line,
)
from tamatar_auth.cli.remote.users import (
    PageTokenOption,
    UserArgument,
    get_user,
    notify_of_more,
)


class Level(StrEnum):
    """The values of `--min-level`."""

    AAL1 = "AAL1"
    AAL2 = "AAL2"


SESSIONS = Listing(
    field="sessions",
    columns={
        "session_id": "Id",
        "last_activity_time": "Last seen",
        "client.ip_address": "Address",
        "assurance_level": "Level",
        "authenticate_time": "Authenticated",
        "create_time": "Created",
        "expire_time": "Expires",
        "revoke_time": "Ended",
        "client.user_agent": "Client",
    },
)


def create(
    who: Annotated[
        str, typer.Argument(metavar="USER", help="The email address or the username of the user.")
    ],
    *,
    password_stdin: PasswordStdinOption = False,
    print_token: Annotated[
        bool, typer.Option("--print-token", help="Only print the token of the session.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Sign a user in. The token of the new session is printed only now.

    A prompt asks for the password unless stdin provides it. If the user has a second factor,
    another prompt asks for a code.
    """
    password = read_secret("password", from_stdin=password_stdin)
    client = SessionClient(user_agent=f"tamatar-auth/{__version__}")
    request = pb.CreateSessionRequest(password=password, client=client)
    if "@" in who:
        request.email = who
    else:
        request.username = who
    with open_client(ctx) as auth:
        response: Any = auth.sessions.CreateSession(request)
        if response.HasField("challenge"):
            response = answer_challenge(auth, response.challenge, client)
    if print_token and output is not OutputFormat.JSON:
        typer.echo(response.session_token)
    else:
        show(as_dict(response), output, name="session.session_id")


def validate(
    *,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the token from the first line of stdin.")
    ] = False,
    min_level: Annotated[
        Level | None, typer.Option(help="Require this assurance level.", case_sensitive=False)
    ] = None,
    max_age: Annotated[
        Any,
        typer.Option(
            parser=parse_age,
            metavar="DURATION",
            help="Require an authentication that is at most this old, such as 5m.",
        ),
    ] = None,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Show the session of a token and its user. Exit with 1 if the session is not valid.

    A prompt asks for the token unless stdin provides it.
    """
    request = pb.ValidateSessionRequest(session_token=read_secret("token", from_stdin=token_stdin))
    if min_level:
        request.min_assurance_level = AssuranceLevel.Value(f"ASSURANCE_LEVEL_{min_level.value}")
    if max_age is not None:
        request.max_authentication_age.FromTimedelta(max_age)
    with open_client(ctx) as auth:
        response = auth.sessions.ValidateSession(request)
    is_required = request.min_assurance_level or request.HasField("max_authentication_age")
    if is_required and not response.session.HasField("authenticate_time"):
        raise CommandError(
            "The service does not know levels of sessions: its version may be older.",
            ExitCode.REFUSED,
        )
    show(as_dict(response), output, name="session.session_id")


def show_sessions(  # noqa: PLR0913 - options of a command, each named
    who: UserArgument,
    *,
    ended: Annotated[bool, typer.Option("--ended", help="Also list ended sessions.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="List at most this many.")] = 50,
    page_token: PageTokenOption = "",
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """List the sessions of a user. The newest session comes first."""
    with open_client(ctx) as auth:
        user_id = get_user(auth, who, deleted=ended).user.user_id
        request = pb.ListSessionsRequest(
            user_id=user_id, include_ended=ended, page_size=limit, page_token=page_token
        )
        page = auth.sessions.ListSessions(request)
    show_all(as_dict(page), output, SESSIONS)
    notify_of_more(page.next_page_token, limit)


def revoke(
    session_id: Annotated[str, typer.Argument(help="The id of the session.")] = "",
    *,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="End the session whose token is in stdin.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """End a session."""
    if bool(session_id) is token_stdin:
        raise usage_error("Name a session, or use --token-stdin.")
    request = pb.RevokeSessionRequest()
    if token_stdin:
        request.session_token = read_secret_line("token")
    else:
        request.session_id = session_id
    with open_client(ctx) as auth:
        response = auth.sessions.RevokeSession(request)
    show(as_dict(response.session), output, name="session_id")


def revoke_user(
    who: UserArgument,
    *,
    except_session_id: Annotated[
        str, typer.Option("--except", metavar="SESSION_ID", help="Keep this session.")
    ] = "",
    yes: YesOption = False,
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """End a user's sessions."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        confirm(f"End all sessions of {user.email}?", yes=yes)
        request = pb.RevokeUserSessionsRequest(
            user_id=user.user_id, except_session_id=except_session_id
        )
        response = auth.sessions.RevokeUserSessions(request)
    notify(f"{response.revoked_session_count} sessions were ended.")
    if output is TextFormat.JSON:
        print_json(as_dict(response))
