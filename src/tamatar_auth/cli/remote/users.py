"""The commands about users."""

from datetime import datetime
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar_auth.cli.exits import misused
from tamatar_auth.cli.remote.options import (
    As,
    InContext,
    PasswordFromInput,
    Yes,
    called,
    confirm,
    line_of_input,
    new_password,
)
from tamatar_auth.cli.remote.output import Output, as_dict, say, show, show_all
from tamatar_auth.cli.remote.user_lookup import Who, find, matching, pages
from tamatar_auth.client import AuthClient

users = typer.Typer(
    help="Look at users and change them.", no_args_is_help=True, rich_markup_mode=None
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

Text = Annotated[str | None, typer.Option(help="An empty text clears it.")]
Flag = Annotated[bool | None, typer.Option()]
Moment = Annotated[datetime | None, typer.Option()]


@users.command("create")
def create(  # noqa: PLR0913 - options of a command, each named
    email: Annotated[str, typer.Argument(help="The email address.")],
    *,
    username: Annotated[str, typer.Option()] = "",
    first_name: Annotated[str, typer.Option()] = "",
    last_name: Annotated[str, typer.Option()] = "",
    avatar_url: Annotated[str, typer.Option()] = "",
    display_name: Annotated[str, typer.Option()] = "",
    verified: Annotated[
        bool, typer.Option("--verified", help="The address is known to be the user's.")
    ] = False,
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Ask for a password.")
    ] = False,
    password_stdin: PasswordFromInput = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Create a user; without a password it cannot sign in until it has set one by a reset."""
    wants_password = ask_password or password_stdin
    password = new_password(from_input=password_stdin) if wants_password else ""
    request = pb.CreateUserRequest(
        email=email,
        username=username,
        password=password,
        first_name=first_name,
        last_name=last_name,
        avatar_url=avatar_url,
        profile=UserProfile(display_name=display_name),
        email_verified=verified,
    )
    with called(context) as auth:
        answer = auth.users.CreateUser(request)
    show(_whole(answer), output)


@users.command("get")
def get(
    who: Who,
    *,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Show the live sessions, at most ten.")
    ] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Find a deleted user, too.")] = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Show a user with its profile."""
    with called(context) as auth:
        answer = find(auth, who, deleted=deleted, sessions=sessions)
    shown, recent = _whole(answer), [as_dict(one) for one in answer.recent_sessions]
    if sessions and output is not Output.TABLE:
        shown["recent_sessions"] = recent
    show(shown, output)
    if sessions and output is Output.TABLE:
        show_all(recent, output, SESSION_COLUMNS)


@users.command("list")
def show_users(  # noqa: PLR0913 - options of a command, each named
    *,
    email: Annotated[str | None, typer.Option(help="How the address begins.")] = None,
    username: Annotated[str | None, typer.Option(help="How the username begins.")] = None,
    verified: Annotated[bool | None, typer.Option("--verified/--unverified")] = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted users only.")] = False,
    created_from: Moment = None,
    created_before: Moment = None,
    order: Annotated[
        str, typer.Option(help="create_time, update_time or email, and desc after a space.")
    ] = "create_time desc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Show users, the newest first. `tamatar-auth export` writes all of them."""
    said = matching(
        email=email,
        username=username,
        verified=verified,
        active=active,
        deleted=deleted,
        created=(created_from, created_before),
    )
    with called(context) as auth:
        found, more = pages(auth, said, order, limit)
    show_all([as_dict(user) for user in found], output, COLUMNS)
    if more:
        say(f"There are more than {limit}: say --limit.")


@users.command("update")
def update(  # noqa: PLR0913 - options of a command, each named
    who: Who,
    *,
    email: Annotated[str | None, typer.Option(help="It is unverified again.")] = None,
    username: Text = None,
    first_name: Text = None,
    last_name: Text = None,
    avatar_url: Text = None,
    display_name: Text = None,
    bio: Text = None,
    locale: Text = None,
    time_zone: Text = None,
    etag: Annotated[str, typer.Option(help="Only if the user still has this etag.")] = "",
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Change what is named of a user, and nothing else."""
    own = _given(
        email=email,
        username=username,
        first_name=first_name,
        last_name=last_name,
        avatar_url=avatar_url,
    )
    profile = _given(display_name=display_name, bio=bio, locale=locale, time_zone=time_zone)
    paths = [*own, *(f"profile.{name}" for name in profile)]
    if not paths:
        raise misused("Nothing is to be changed: name it, such as --first-name Ada.")
    with called(context) as auth:
        request = pb.UpdateUserRequest(
            user_id=_id(auth, who),
            profile=UserProfile(**profile),
            update_mask=FieldMask(paths=paths),
            etag=etag,
            **own,
        )
        answer = auth.users.UpdateUser(request)
    show(_whole(answer), output)


@users.command("deactivate")
def deactivate(
    who: Who, *, yes: Yes = False, output: As = Output.TABLE, context: InContext = None
) -> None:
    """Bar a user from signing in, and end its sessions."""
    with called(context) as auth:
        user = find(auth, who).user
        confirm(f"Deactivate {user.email} and end its sessions?", yes=yes)
        answer = auth.users.DeactivateUser(pb.DeactivateUserRequest(user_id=user.user_id))
    say(f"{answer.revoked_session_count} sessions were ended.")
    show(as_dict(answer.user), output)


@users.command("activate")
def activate(who: Who, *, output: As = Output.TABLE, context: InContext = None) -> None:
    """Let a user in again."""
    with called(context) as auth:
        answer = auth.users.ActivateUser(pb.ActivateUserRequest(user_id=_id(auth, who)))
    show(as_dict(answer.user), output)


@users.command("delete")
def delete(
    who: Who,
    *,
    by: Annotated[str, typer.Option(help="Who deletes it, for the record.")] = "",
    yes: Yes = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Delete a user so that it can be restored, and end its sessions."""
    with called(context) as auth:
        user = find(auth, who).user
        confirm(f"Delete {user.email} and end its sessions?", yes=yes)
        request = pb.DeleteUserRequest(user_id=user.user_id, deleted_by=by)
        answer = auth.users.DeleteUser(request)
    say(f"{answer.revoked_session_count} sessions were ended.")
    show(as_dict(answer.user), output)


@users.command("restore")
def restore(
    who: Who,
    *,
    email: Annotated[str, typer.Option(help="Another address, where the old one is taken.")] = "",
    username: Annotated[str, typer.Option(help="Another username, likewise.")] = "",
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Bring a deleted user back."""
    with called(context) as auth:
        request = pb.RestoreUserRequest(
            user_id=_id(auth, who, deleted=True), email=email, username=username
        )
        answer = auth.users.RestoreUser(request)
    show(as_dict(answer.user), output)


@users.command("purge")
def purge(who: Who, *, yes: Yes = False, context: InContext = None) -> None:
    """Remove a user and all that belongs to it, for good."""
    with called(context) as auth:
        user = find(auth, who, deleted=True).user
        confirm(f"Remove {user.email} ({user.user_id}) for good?", yes=yes)
        auth.users.PurgeUser(pb.PurgeUserRequest(user_id=user.user_id))
    say(f"{user.user_id} is gone.")


PrintToken = Annotated[
    bool,
    typer.Option("--print-token", help="Print the one-time secret that the user is to be sent."),
]


@users.command("verify-email")
def verify_email(
    who: Who,
    *,
    print_token: PrintToken = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Take back the secret in the input, instead.")
    ] = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Take the address of a user as verified."""
    with called(context) as auth:
        user_id = _id(auth, who)
        if token_stdin:
            token = line_of_input("secret")
        else:
            request = pb.CreateEmailVerificationRequest(user_id=user_id)
            issued = auth.users.CreateEmailVerification(request)
            token = issued.token
        if print_token and not token_stdin:
            say(f"For {issued.email}, good until {issued.expire_time.ToJsonString()}.")
            typer.echo(token)
            return
        answer = auth.users.VerifyEmail(pb.VerifyEmailRequest(token=token))
    show(as_dict(answer.user), output)


@users.command("reset-password")
def reset_password(
    who: Who,
    *,
    print_token: PrintToken = False,
    password_stdin: PasswordFromInput = False,
    output: As = Output.TABLE,
    context: InContext = None,
) -> None:
    """Set another password of a user, and end its sessions."""
    with called(context) as auth:
        user = find(auth, who).user
        password = "" if print_token else new_password(from_input=password_stdin)
        issued = auth.users.CreatePasswordReset(pb.CreatePasswordResetRequest(email=user.email))
        if not issued.token:
            raise misused("The user is deactivated: activate it first.")
        if print_token:
            say(f"For {user.email}, good until {issued.expire_time.ToJsonString()}.")
            typer.echo(issued.token)
            return
        request = pb.ResetPasswordRequest(token=issued.token, new_password=password)
        answer = auth.users.ResetPassword(request)
    say(f"{answer.revoked_session_count} sessions were ended.")
    show(as_dict(answer.user), output)


def _id(auth: AuthClient, who: str, *, deleted: bool = False) -> str:
    return find(auth, who, deleted=deleted).user.user_id


def _whole(answer: Any) -> dict[str, Any]:
    return {**as_dict(answer.user), "profile": as_dict(answer.profile)}


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
