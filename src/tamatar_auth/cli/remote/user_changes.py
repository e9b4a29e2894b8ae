"""The commands of `user` that change users."""

from typing import Annotated, Any

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.formats import OutputFormat, OutputOption, TextFormat, TextOption, show
from tamatar_auth.cli.output import notify, print_json
from tamatar_auth.cli.remote.messages import as_dict
from tamatar_auth.cli.remote.options import (
    PasswordStdinOption,
    YesOption,
    confirm,
    open_client,
    read_new_password,
    read_secret_line,
)
from tamatar_auth.cli.remote.users import UserArgument, get_user, get_user_id, user_with_profile

ClearableOption = Annotated[str | None, typer.Option(help="An empty text clears the field.")]
PrintTokenOption = Annotated[
    bool,
    typer.Option("--print-token", help="Only print the one-time secret to send to the user."),
]


def create(  # noqa: PLR0913 - options of a command, each named
    email: Annotated[str, typer.Argument(help="The email address.")],
    *,
    username: Annotated[str, typer.Option()] = "",
    first_name: Annotated[str, typer.Option()] = "",
    last_name: Annotated[str, typer.Option()] = "",
    avatar_url: Annotated[str, typer.Option()] = "",
    display_name: Annotated[str, typer.Option()] = "",
    verified: Annotated[
        bool, typer.Option("--verified", help="Mark the email address as verified.")
    ] = False,
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Prompt for a password.")
    ] = False,
    password_stdin: PasswordStdinOption = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Create a user. Without a password the user cannot sign in before a password reset."""
    wants_password = ask_password or password_stdin
    password = read_new_password(from_stdin=password_stdin) if wants_password else ""
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
    with open_client(ctx) as auth:
        response = auth.users.CreateUser(request)
    show(user_with_profile(response), output, name="user_id")


def update(  # noqa: PLR0913 - options of a command, each named
    who: UserArgument,
    *,
    email: Annotated[
        str | None, typer.Option(help="The new address is unverified until it is verified again.")
    ] = None,
    username: ClearableOption = None,
    first_name: ClearableOption = None,
    last_name: ClearableOption = None,
    avatar_url: ClearableOption = None,
    display_name: ClearableOption = None,
    bio: ClearableOption = None,
    locale: ClearableOption = None,
    time_zone: ClearableOption = None,
    etag: Annotated[str, typer.Option(help="Change the user only if it still has this etag.")] = "",
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Change fields of a user. Fields that no option names stay as they are."""
    names = {"username": username, "first_name": first_name, "last_name": last_name}
    user_fields = _without_none(email=email, **names, avatar_url=avatar_url)
    profile = _without_none(display_name=display_name, bio=bio, locale=locale, time_zone=time_zone)
    paths = [*user_fields, *(f"profile.{name}" for name in profile)]
    if not paths:
        raise usage_error("There is nothing to change. Name a field, such as --first-name Ada.")
    with open_client(ctx) as auth:
        request = pb.UpdateUserRequest(
            user_id=get_user_id(auth, who),
            profile=UserProfile(**profile),
            update_mask=FieldMask(paths=paths),
            etag=etag,
            **user_fields,
        )
        response = auth.users.UpdateUser(request)
    show(user_with_profile(response), output, name="user_id")


def deactivate(
    who: UserArgument,
    *,
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Block sign-ins of a user, end its sessions."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        confirm(f"Deactivate {user.email} and end its sessions?", yes=yes)
        response = auth.users.DeactivateUser(pb.DeactivateUserRequest(user_id=user.user_id))
    _show_ended(response, output)


def activate(
    who: UserArgument, *, output: OutputOption = OutputFormat.TABLE, ctx: typer.Context
) -> None:
    """Allow a deactivated user to sign in again."""
    with open_client(ctx) as auth:
        response = auth.users.ActivateUser(pb.ActivateUserRequest(user_id=get_user_id(auth, who)))
    show(as_dict(response.user), output, name="user_id")


def delete(
    who: UserArgument,
    *,
    by: Annotated[str, typer.Option(help="Record who deletes the user.")] = "",
    yes: YesOption = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Delete a user, which can be restored. The user's sessions end."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        confirm(f"Delete {user.email} and end its sessions?", yes=yes)
        request = pb.DeleteUserRequest(user_id=user.user_id, deleted_by=by)
        response = auth.users.DeleteUser(request)
    _show_ended(response, output)


def restore(
    who: UserArgument,
    *,
    email: Annotated[str, typer.Option(help="Set a new address if the old one is taken.")] = "",
    username: Annotated[str, typer.Option(help="Set a new username if the old one is taken.")] = "",
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Restore a deleted user."""
    with open_client(ctx) as auth:
        request = pb.RestoreUserRequest(
            user_id=get_user_id(auth, who, deleted=True), email=email, username=username
        )
        response = auth.users.RestoreUser(request)
    show(as_dict(response.user), output, name="user_id")


def purge(
    who: UserArgument,
    *,
    yes: YesOption = False,
    output: TextOption = TextFormat.TEXT,
    ctx: typer.Context,
) -> None:
    """Remove a user permanently. Everything that belongs to the user is removed too."""
    with open_client(ctx) as auth:
        user = get_user(auth, who, deleted=True).user
        confirm(f"Remove {user.email} ({user.user_id}) permanently?", yes=yes)
        auth.users.PurgeUser(pb.PurgeUserRequest(user_id=user.user_id))
    notify(f"{user.user_id} was removed.")
    if output is TextFormat.JSON:
        print_json({"user_id": user.user_id})


def verify_email(
    who: UserArgument,
    *,
    print_token: PrintTokenOption = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Use the one-time secret in stdin.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Mark the email address of a user as verified."""
    with open_client(ctx) as auth:
        user_id = get_user_id(auth, who)
        if token_stdin:
            token = read_secret_line("secret")
        else:
            request = pb.CreateEmailVerificationRequest(user_id=user_id)
            issued = auth.users.CreateEmailVerification(request)
            token = issued.token
        if print_token and not token_stdin:
            _print_token(issued, output)
            return
        response = auth.users.VerifyEmail(pb.VerifyEmailRequest(token=token))
    show(as_dict(response.user), output, name="user_id")


def reset_password(
    who: UserArgument,
    *,
    print_token: PrintTokenOption = False,
    password_stdin: PasswordStdinOption = False,
    output: OutputOption = OutputFormat.TABLE,
    ctx: typer.Context,
) -> None:
    """Set a new password, end the user's sessions."""
    with open_client(ctx) as auth:
        user = get_user(auth, who).user
        password = "" if print_token else read_new_password(from_stdin=password_stdin)
        issued = auth.users.CreatePasswordReset(pb.CreatePasswordResetRequest(email=user.email))
        if not issued.token:
            raise usage_error("The user is deactivated. Run `tamatar-auth user activate` first.")
        if print_token:
            _print_token(issued, output)
            return
        request = pb.ResetPasswordRequest(token=issued.token, new_password=password)
        response = auth.users.ResetPassword(request)
    _show_ended(response, output)


def _show_ended(response: Any, output: OutputFormat) -> None:
    notify(f"{response.revoked_session_count} sessions were ended.")
    show(as_dict(response.user), output, name="user_id")


def _print_token(issued: Any, output: OutputFormat) -> None:
    notify(f"For {issued.email}, valid until {issued.expire_time.ToJsonString()}.")
    if output is OutputFormat.JSON:
        print_json(as_dict(issued))
    else:
        typer.echo(issued.token)


def _without_none(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}
