"""The commands of `user` that verify addresses and reset passwords."""

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.cli.exits import usage_error
from tamatar_auth.cli.output import notify
from tamatar_auth.cli.remote.options import (
    ContextOption,
    OutputOption,
    PasswordStdinOption,
    open_client,
    read_new_password,
    read_secret_line,
)
from tamatar_auth.cli.remote.output import OutputFormat, as_dict, show
from tamatar_auth.cli.remote.user_lookup import UserArgument, get_user, get_user_id

PrintTokenOption = Annotated[
    bool,
    typer.Option("--print-token", help="Only print the one-time secret to send to the user."),
]


def verify_email(
    who: UserArgument,
    *,
    print_token: PrintTokenOption = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Use the one-time secret in stdin.")
    ] = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Mark the email address of a user as verified."""
    with open_client(context) as auth:
        user_id = get_user_id(auth, who)
        if token_stdin:
            token = read_secret_line("secret")
        else:
            request = pb.CreateEmailVerificationRequest(user_id=user_id)
            issued = auth.users.CreateEmailVerification(request)
            token = issued.token
        if print_token and not token_stdin:
            _print_token(issued.email, issued.expire_time, token)
            return
        response = auth.users.VerifyEmail(pb.VerifyEmailRequest(token=token))
    show(as_dict(response.user), output)


def reset_password(
    who: UserArgument,
    *,
    print_token: PrintTokenOption = False,
    password_stdin: PasswordStdinOption = False,
    output: OutputOption = OutputFormat.TABLE,
    context: ContextOption = None,
) -> None:
    """Set a new password, end the user's sessions."""
    with open_client(context) as auth:
        user = get_user(auth, who).user
        password = "" if print_token else read_new_password(from_stdin=password_stdin)
        issued = auth.users.CreatePasswordReset(pb.CreatePasswordResetRequest(email=user.email))
        if not issued.token:
            raise usage_error("The user is deactivated. Run `tamatar-auth user activate` first.")
        if print_token:
            _print_token(user.email, issued.expire_time, issued.token)
            return
        request = pb.ResetPasswordRequest(token=issued.token, new_password=password)
        response = auth.users.ResetPassword(request)
    notify(f"{response.revoked_session_count} sessions were ended.")
    show(as_dict(response.user), output)


def _print_token(email: str, expire_time: Timestamp, token: str) -> None:
    notify(f"For {email}, valid until {expire_time.ToJsonString()}.")
    typer.echo(token)
