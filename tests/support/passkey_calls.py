"""Calls of tests with passkeys: registrations, and sign-ins without a password."""

from typing import Any

from tamatar.auth.v1 import factor_service_pb2, session_service_pb2
from tamatar.auth.v1.factor_pb2 import Factor
from tamatar.auth.v1.user_pb2 import User
from tests.support.soft_authenticator import SoftPasskey


def begin_registration(factors: Any, user: User, **given: Any) -> Any:
    """Begin to register a passkey of a user."""
    values = {"user_id": user.user_id} | given
    return factors.BeginPasskeyRegistration(
        factor_service_pb2.BeginPasskeyRegistrationRequest(**values)
    )


def finish_registration(factors: Any, token: str, credential_json: str, label: str = "") -> Any:
    """Register the passkey that a browser has made."""
    request = factor_service_pb2.FinishPasskeyRegistrationRequest(
        registration_token=token, credential_json=credential_json, label=label
    )
    return factors.FinishPasskeyRegistration(request)


async def register_passkey(factors: Any, user: User, **facts: Any) -> tuple[SoftPasskey, Factor]:
    """Register a new passkey of a user; return the authenticator's side and the factor."""
    begun = await begin_registration(factors, user)
    passkey = SoftPasskey.for_options(begun.creation_options_json, **facts)
    answer = passkey.register(begun.creation_options_json)
    done = await finish_registration(factors, begun.registration_token, answer)
    return passkey, done.factor


async def begin_sign_in(sessions: Any, email: str = "") -> Any:
    """Begin a sign-in with a passkey, and return its challenge."""
    request = session_service_pb2.BeginPasskeySignInRequest(email=email)
    return (await sessions.BeginPasskeySignIn(request)).challenge


def complete_sign_in(sessions: Any, challenge_token: str, **proof: Any) -> Any:
    """Answer a challenge."""
    request = session_service_pb2.CompleteSignInRequest(challenge_token=challenge_token, **proof)
    return sessions.CompleteSignIn(request)
