"""The commands about users."""

from datetime import datetime
from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.remote.options import (
    ContextOption,
    OutputOption,
    PasswordStdinOption,
    YesOption,
    confirm,
    open_client,
    read_new_password,
    read_secret_line,
)
from tamatar_auth.cli.remote.output import OutputFormat, as_dict, notify, show, show_all
from tamatar_auth.cli.remote.user_lookup import UserArgument, build_filter, get_user, list_users
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

TextOption = Annotated[str | None, typer.Option(help="An empty text clears it.")]
Flag = Annotated[bool | None, typer.Option()]
TimeOption = Annotated[datetime | None, typer.Option()]


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
    password_stdin: PasswordStdinOption = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Create a user; without a password it cannot sign in until it has set one by a reset."""
    wants_password = ask_password or password_stdin
    password = read_new_password(from_input=password_stdin) if wants_password else ""
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
    with open_client(context) as auth:
        response = auth.users.CreateUser(request)
    show(_user_with_profile(response), output)


@users.command("get")
def get(
    who: UserArgument,
    *,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Show the live sessions, at most ten.")
    ] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Find a deleted user, too.")] = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Show a user with its profile."""
    with open_client(context) as auth:
        response = get_user(auth, who, deleted=deleted, sessions=sessions)
    shown, recent = (
        _user_with_profile(response),
        [as_dict(session) for session in response.recent_sessions],
    )
    if sessions and output is not OutputFormat.TABLE:
        shown["recent_sessions"] = recent
    show(shown, output)
    if sessions and output is OutputFormat.TABLE:
        show_all(recent, output, SESSION_COLUMNS)


@users.command("list")
def show_users(  # noqa: PLR0913 - options of a command, each named
    *,
    email: Annotated[str | None, typer.Option(help="How the address begins.")] = None,
    username: Annotated[str | None, typer.Option(help="How the username begins.")] = None,
    verified: Annotated[bool | None, typer.Option("--verified/--unverified")] = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted users only.")] = False,
    created_from: TimeOption = None,
    created_before: TimeOption = None,
    order: Annotated[
        str, typer.Option(help="create_time, update_time or email, and desc after a space.")
    ] = "create_time desc",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Show users, the newest first. `tamatar-auth export` writes all of them."""
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
        notify(f"There are more than {limit}: say --limit.")


@users.command("update")
def update(  # noqa: PLR0913 - options of a command, each named
    who: UserArgument,
    *,
    email: Annotated[str | None, typer.Option(help="It is unverified again.")] = None,
    username: TextOption = None,
    first_name: TextOption = None,
    last_name: TextOption = None,
    avatar_url: TextOption = None,
    display_name: TextOption = None,
    bio: TextOption = None,
    locale: TextOption = None,
    time_zone: TextOption = None,
    etag: Annotated[str, typer.Option(help="Only if the user still has this etag.")] = "",
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Change what is named of a user, and nothing else."""
    user_fields = _without_none(
        email=email,
        username=username,
        first_name=first_name,
        last_name=last_name,
        avatar_url=avatar_url,
    )
    profile = _without_none(display_name=display_name, bio=bio, locale=locale, time_zone=time_zone)
    paths = [*user_fields, *(f"profile.{name}" for name in profile)]
    if not paths:
        raise usage_error("Nothing is to be changed: name it, such as --first-name Ada.")
    with open_client(context) as auth:
        request = pb.UpdateUserRequest(
            user_id=_user_id(auth, who),
            profile=UserProfile(**profile),
            update_mask=FieldMask(paths=paths),
            etag=etag,
            **user_fields,
        )
        response = auth.users.UpdateUser(request)
    show(_user_with_profile(response), output)


@users.command("deactivate")
def deactivate(
    who: UserArgument,
    *,
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Bar a user from signing in, and end its sessions."""
    with open_client(context) as auth:
        user = get_user(auth, who).user
        confirm(f"Deactivate {user.email} and end its sessions?", yes=yes)
        response = auth.users.DeactivateUser(pb.DeactivateUserRequest(user_id=user.user_id))
    notify(f"{response.revoked_session_count} sessions were ended.")
    show(as_dict(response.user), output)


@users.command("activate")
def activate(
    who: UserArgument, *, output: OutputOption = OutputFormat.TABLE, context: ContextOption = None
) -> None:
    """Let a user in again."""
    with open_client(context) as auth:
        response = auth.users.ActivateUser(pb.ActivateUserRequest(user_id=_user_id(auth, who)))
    show(as_dict(response.user), output)


@users.command("delete")
def delete(
    who: UserArgument,
    *,
    by: Annotated[str, typer.Option(help="Who deletes it, for the record.")] = "",
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Delete a user so that it can be restored, and end its sessions."""
    with open_client(context) as auth:
        user = get_user(auth, who).user
        confirm(f"Delete {user.email} and end its sessions?", yes=yes)
        request = pb.DeleteUserRequest(user_id=user.user_id, deleted_by=by)
        response = auth.users.DeleteUser(request)
    notify(f"{response.revoked_session_count} sessions were ended.")
    show(as_dict(response.user), output)


@users.command("restore")
def restore(
    who: UserArgument,
    *,
    email: Annotated[str, typer.Option(help="Another address, where the old one is taken.")] = "",
    username: Annotated[str, typer.Option(help="Another username, likewise.")] = "",
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Bring a deleted user back."""
    with open_client(context) as auth:
        request = pb.RestoreUserRequest(
            user_id=_user_id(auth, who, deleted=True), email=email, username=username
        )
        response = auth.users.RestoreUser(request)
    show(as_dict(response.user), output)


@users.command("purge")
def purge(who: UserArgument, *, yes: YesOption = False, context: ContextOption = None) -> None:
    """Remove a user and all that belongs to it, for good."""
    with open_client(context) as auth:
        user = get_user(auth, who, deleted=True).user
        confirm(f"Remove {user.email} ({user.user_id}) for good?", yes=yes)
        auth.users.PurgeUser(pb.PurgeUserRequest(user_id=user.user_id))
    notify(f"{user.user_id} is gone.")


PrintToken = Annotated[
    bool,
    typer.Option("--print-token", help="Print the one-time secret that the user is to be sent."),
]


@users.command("verify-email")
def verify_email(
    who: UserArgument,
    *,
    print_token: PrintToken = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Take back the secret in the input, instead.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Take the address of a user as verified."""
    with open_client(context) as auth:
        user_id = _user_id(auth, who)
        if token_stdin:
            token = read_secret_line("secret")
        else:
            request = pb.CreateEmailVerificationRequest(user_id=user_id)
            issued = auth.users.CreateEmailVerification(request)
            token = issued.token
        if print_token and not token_stdin:
            notify(f"For {issued.email}, good until {issued.expire_time.ToJsonString()}.")
            typer.echo(token)
            return
        response = auth.users.VerifyEmail(pb.VerifyEmailRequest(token=token))
    show(as_dict(response.user), output)


@users.command("reset-password")
def reset_password(
    who: UserArgument,
    *,
    print_token: PrintToken = False,
    password_stdin: PasswordStdinOption = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Set another password of a user, and end its sessions."""
    with open_client(context) as auth:
        user = get_user(auth, who).user
        password = "" if print_token else read_new_password(from_input=password_stdin)
        issued = auth.users.CreatePasswordReset(pb.CreatePasswordResetRequest(email=user.email))
        if not issued.token:
            raise usage_error("The user is deactivated: activate it first.")
        if print_token:
            notify(f"For {user.email}, good until {issued.expire_time.ToJsonString()}.")
            typer.echo(issued.token)
            return
        request = pb.ResetPasswordRequest(token=issued.token, new_password=password)
        response = auth.users.ResetPassword(request)
    notify(f"{response.revoked_session_count} sessions were ended.")
    show(as_dict(response.user), output)


def _user_id(auth: AuthClient, who: str, *, deleted: bool = False) -> str:
    return get_user(auth, who, deleted=deleted).user.user_id


def _user_with_profile(response: Any) -> dict[str, Any]:
    return {**as_dict(response.user), "profile": as_dict(response.profile)}


def _without_none(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
