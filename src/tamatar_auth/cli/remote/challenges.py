"""Second factors at sign-in: a prompt asks for a code."""

import re
import sys

from tamatar.auth.v1.factor_pb2 import FactorKind
from tamatar.auth.v1.session_pb2 import SessionClient
from tamatar.auth.v1.session_service_pb2 import (
    Challenge,
    CompleteSignInRequest,
    CompleteSignInResponse,
)
from tamatar_auth.cli.exits import CommandError, ExitCode
from tamatar_auth.cli.remote.options import prompt_secret
from tamatar_auth.client import AuthClient

_CODES = {
    FactorKind.FACTOR_KIND_TOTP: "code of the authenticator app",
    FactorKind.FACTOR_KIND_RECOVERY_CODES: "recovery code",
}


def answer_challenge(
    auth: AuthClient, challenge: Challenge, client: SessionClient
) -> CompleteSignInResponse:
    """Sign a user in with the code that a person enters."""
    codes = [text for kind, text in _CODES.items() if kind in challenge.kinds]
    if not codes:
        raise _refusal("The user signs in with a passkey, which needs a browser.")
    if not sys.stdin.isatty():
        raise _refusal(
            "The user has a second factor. Sign in at a terminal, which asks for a code."
        )
    code = prompt_secret(" or ".join(codes).capitalize())
    request = CompleteSignInRequest(challenge_token=challenge.challenge_token, client=client)
    if re.fullmatch(r"(\s*\d){6}\s*", code):
        request.totp_code = code
    else:
        request.recovery_code = code
    return auth.sessions.CompleteSignIn(request)


def _refusal(message: str) -> CommandError:
    return CommandError(message, ExitCode.REFUSED)
