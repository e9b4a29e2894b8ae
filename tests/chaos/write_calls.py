"""Every call that changes something, with its preparation."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import func, update

from tamatar.auth.v1 import (
    factor_service_pb2,
    session_service_pb2,
    user_pb2,
    user_service_pb2,
)
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import (
    NEW_PASSWORD,
    PASSWORD,
    ada,
    change,
    confirm_change,
    email_change,
    password_reset,
    refresh,
    refusal,
    reset,
    sign_in,
    verification,
    verify_email,
)
from tests.support.factors import (
    App,
    challenge,
    complete,
    confirm,
    create_app,
    create_codes,
    delete,
    enrol,
    recovery_codes,
    rename,
)
from tests.support.passkey_calls import (
    begin_registration,
    begin_sign_in,
    finish_registration,
    register_passkey,
)
from tests.support.rows import run
from tests.support.soft_authenticator import SoftPasskey

Call = Callable[[], Any]
"""Makes the same call any number of times."""


@dataclass(frozen=True)
class Scene:
    """The users and sessions of the calls."""

    users: Any
    sessions: Any
    factors: Any
    database: Database

    async def user(self, **given: Any) -> Any:
        """Create a user with a unique address, who can sign in."""
        values = {"email": f"{uuid4()}@example.com", "email_verified": True} | given
        return (await self.users.CreateUser(ada(**values))).user

    async def session(self, user: Any) -> Any:
        """Sign a user in."""
        return await self.sessions.CreateSession(sign_in(email=user.email))

    async def busy_user(self) -> Any:
        """Create a user with a session, a challenge, recovery codes and a one-time token."""
        user = await self.user()
        await self.step_up((await self.session(user)).session_token)
        await recovery_codes(self.factors, user)
        await password_reset(self.users, user.email)
        return user

    async def challenged(self) -> tuple[App, str]:
        """Sign in a user with an app; return the app, and the token of the challenge."""
        user = await self.busy_user()
        app = await enrol(self.factors, user, self.database)
        return app, await challenge(self.sessions, email=user.email)

    async def step_up(self, token: str) -> Any:
        """Begin a step-up of a session, and return its challenge."""
        request = session_service_pb2.BeginStepUpRequest(session_token=token)
        return (await self.sessions.BeginStepUp(request)).challenge

    def of_user(self, method: str, user: Any) -> Call:
        """Call a method that takes only the user's id."""
        request = getattr(user_service_pb2, f"{method}Request")(user_id=user.user_id)
        return lambda: getattr(self.users, method)(request)


async def create_user(scene: Scene) -> Call:
    request = ada(
        request_id=str(uuid4()),
        email=f"{uuid4()}@example.com",
        profile=user_pb2.UserProfile(bio="Countess"),
    )
    return lambda: scene.users.CreateUser(request)


async def update_user(scene: Scene) -> Call:
    user = await scene.busy_user()
    request = user_service_pb2.UpdateUserRequest(
        user_id=user.user_id,
        email=f"{uuid4()}@example.com",
        profile=user_pb2.UserProfile(bio="Countess"),
        update_mask=FieldMask(paths=["email", "profile.bio"]),
    )
    return lambda: scene.users.UpdateUser(request)


async def deactivate_user(scene: Scene) -> Call:
    return scene.of_user("DeactivateUser", await scene.busy_user())


async def activate_user(scene: Scene) -> Call:
    user = await scene.user()
    await scene.of_user("DeactivateUser", user)()
    return scene.of_user("ActivateUser", user)


async def delete_user(scene: Scene) -> Call:
    return scene.of_user("DeleteUser", await scene.busy_user())


async def restore_user(scene: Scene) -> Call:
    user = await scene.user()
    await scene.of_user("DeleteUser", user)()
    return scene.of_user("RestoreUser", user)


async def purge_user(scene: Scene) -> Call:
    return scene.of_user("PurgeUser", await scene.busy_user())


async def import_users(scene: Scene) -> Call:
    users = [PortableUser(email=f"{uuid4()}@example.com") for _ in range(2)]
    request = user_service_pb2.ImportUsersRequest(users=users)
    return lambda: Answered(scene.users.ImportUsers(iter([request])))


class Answered:
    """A stream that is read to its end, like one response."""

    def __init__(self, stream: Any) -> None:
        self.code, self.cancel = stream.code, stream.cancel
        self._reading = asyncio.ensure_future(_read(stream))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._reading.__await__()


async def _read(stream: Any) -> Any:
    return [answer async for answer in stream]


async def change_password(scene: Scene) -> Call:
    user = await scene.busy_user()
    return lambda: change(scene.users, user)


async def create_email_verification(scene: Scene) -> Call:
    user = await scene.user()
    return lambda: verification(scene.users, user)


async def verify_address(scene: Scene) -> Call:
    user = await scene.user(email_verified=False)
    secret = await verification(scene.users, user)
    return lambda: verify_email(scene.users, secret.token)


async def create_email_change(scene: Scene) -> Call:
    user = await scene.user()
    return lambda: email_change(scene.users, user, f"{uuid4()}@example.com")


async def confirm_email_change(scene: Scene) -> Call:
    user = await scene.user()
    secret = await email_change(scene.users, user, f"{uuid4()}@example.com")
    return lambda: confirm_change(scene.users, secret.token)


async def create_password_reset(scene: Scene) -> Call:
    user = await scene.user()
    return lambda: password_reset(scene.users, user.email)


async def reset_password(scene: Scene) -> Call:
    user = await scene.user()
    await scene.session(user)
    await refusal(scene.sessions.CreateSession(sign_in(email=user.email, password=NEW_PASSWORD)))
    secret = await password_reset(scene.users, user.email)
    return lambda: reset(scene.users, secret.token)


async def create_session(scene: Scene) -> Call:
    user = await scene.busy_user()
    return lambda: scene.sessions.CreateSession(sign_in(email=user.email))


async def challenge_user(scene: Scene) -> Call:
    user = await scene.busy_user()
    await enrol(scene.factors, user, scene.database)
    return lambda: scene.sessions.CreateSession(sign_in(email=user.email))


async def begin_passkey_sign_in(scene: Scene) -> Call:
    request = session_service_pb2.BeginPasskeySignInRequest()
    return lambda: scene.sessions.BeginPasskeySignIn(request)


async def begin_named_passkey_sign_in(scene: Scene) -> Call:
    user = await scene.user()
    await register_passkey(scene.factors, user)
    request = session_service_pb2.BeginPasskeySignInRequest(email=user.email)
    return lambda: scene.sessions.BeginPasskeySignIn(request)


async def sign_in_with_code(scene: Scene) -> Call:
    app, token = await scene.challenged()
    return lambda: complete(scene.sessions, token, totp_code=app.code())


async def sign_in_with_recovery_code(scene: Scene) -> Call:
    user = await scene.busy_user()
    await enrol(scene.factors, user, scene.database)
    codes = await recovery_codes(scene.factors, user)  # in place of the first ones
    token = await challenge(scene.sessions, email=user.email)
    return lambda: complete(scene.sessions, token, recovery_code=codes[0])


async def sign_in_with_passkey(scene: Scene) -> Call:
    user = await scene.busy_user()
    passkey, _ = await register_passkey(scene.factors, user)
    begun = await begin_sign_in(scene.sessions, user.email)
    answer = passkey.sign(begun.passkey_options_json)
    return lambda: complete(scene.sessions, begun.challenge_token, passkey_credential_json=answer)


async def begin_step_up(scene: Scene) -> Call:
    started = await scene.session(await scene.user())
    request = session_service_pb2.BeginStepUpRequest(session_token=started.session_token)
    return lambda: scene.sessions.BeginStepUp(request)


async def step_up_with_password(scene: Scene) -> Call:
    token = (await scene.session(await scene.user())).session_token
    begun = await scene.step_up(token)
    request = session_service_pb2.CompleteStepUpRequest(
        session_token=token, challenge_token=begun.challenge_token, password=PASSWORD
    )
    return lambda: scene.sessions.CompleteStepUp(request)


async def step_up_with_code(scene: Scene) -> Call:
    user = await scene.user()
    token = (await scene.session(user)).session_token
    app = await enrol(scene.factors, user, scene.database)
    begun = await scene.step_up(token)
    answer = {"session_token": token, "challenge_token": begun.challenge_token}
    return lambda: scene.sessions.CompleteStepUp(
        session_service_pb2.CompleteStepUpRequest(totp_code=app.code(), **answer)
    )


async def refresh_session(scene: Scene) -> Call:
    started = await scene.session(await scene.user())
    return lambda: refresh(scene.sessions, started.session_token)


async def reuse_token(scene: Scene) -> Call:
    started = await scene.session(await scene.user())
    await refresh(scene.sessions, started.session_token)
    past = func.now() - timedelta(minutes=1)
    await run(scene.database, update(sessions_table).values(rotated_at=past))
    return lambda: refresh(scene.sessions, started.session_token)


async def revoke_session(scene: Scene) -> Call:
    started = await scene.session(await scene.user())
    request = session_service_pb2.RevokeSessionRequest(session_id=started.session.session_id)
    return lambda: scene.sessions.RevokeSession(request)


async def revoke_session_by_token(scene: Scene) -> Call:
    started = await scene.session(await scene.user())
    request = session_service_pb2.RevokeSessionRequest(session_token=started.session_token)
    return lambda: scene.sessions.RevokeSession(request)


async def revoke_user_sessions(scene: Scene) -> Call:
    user = await scene.user()
    await scene.session(user)
    request = session_service_pb2.RevokeUserSessionsRequest(user_id=user.user_id)
    return lambda: scene.sessions.RevokeUserSessions(request)


async def create_totp_factor(scene: Scene) -> Call:
    user = await scene.user()
    await create_app(scene.factors, user)  # the next one replaces it
    request = factor_service_pb2.CreateTotpFactorRequest(user_id=user.user_id)
    return lambda: scene.factors.CreateTotpFactor(request)


async def confirm_totp_factor(scene: Scene) -> Call:
    app = await create_app(scene.factors, await scene.user())
    return lambda: confirm(scene.factors, app)


async def replace_recovery_codes(scene: Scene) -> Call:
    user = await scene.user()
    await recovery_codes(scene.factors, user)
    return lambda: create_codes(scene.factors, user)


async def begin_passkey_registration(scene: Scene) -> Call:
    user = await scene.user()
    return lambda: begin_registration(scene.factors, user)


async def finish_passkey_registration(scene: Scene) -> Call:
    begun = await begin_registration(scene.factors, await scene.user())
    options = begun.creation_options_json
    answer = SoftPasskey.for_options(options).register(options)
    return lambda: finish_registration(scene.factors, begun.registration_token, answer)


async def update_factor(scene: Scene) -> Call:
    app = await create_app(scene.factors, await scene.user())
    return lambda: rename(scene.factors, app.factor, "Ada's phone")


async def delete_app(scene: Scene) -> Call:
    app, token = await scene.challenged()
    await refusal(complete(scene.sessions, token, totp_code=app.wrong_code))
    return lambda: delete(scene.factors, app.factor)


async def delete_recovery_codes(scene: Scene) -> Call:
    created = await create_codes(scene.factors, await scene.user())
    return lambda: delete(scene.factors, created.factor)


Prepare = Callable[[Scene], Awaitable[Call]]

MUTATIONS: dict[str, tuple[Prepare, ...]] = {
    "CreateUser": (create_user,),
    "UpdateUser": (update_user,),
    "DeactivateUser": (deactivate_user,),
    "ActivateUser": (activate_user,),
    "DeleteUser": (delete_user,),
    "RestoreUser": (restore_user,),
    "PurgeUser": (purge_user,),
    "ImportUsers": (import_users,),
    "ChangePassword": (change_password,),
    "CreateEmailVerification": (create_email_verification,),
    "VerifyEmail": (verify_address,),
    "CreateEmailChange": (create_email_change,),
    "ConfirmEmailChange": (confirm_email_change,),
    "CreatePasswordReset": (create_password_reset,),
    "ResetPassword": (reset_password,),
    "CreateSession": (create_session, challenge_user),
    "BeginPasskeySignIn": (begin_passkey_sign_in, begin_named_passkey_sign_in),
    "CompleteSignIn": (sign_in_with_code, sign_in_with_recovery_code, sign_in_with_passkey),
    "BeginStepUp": (begin_step_up,),
    "CompleteStepUp": (step_up_with_password, step_up_with_code),
    "RefreshSession": (refresh_session, reuse_token),
    "RevokeSession": (revoke_session, revoke_session_by_token),
    "RevokeUserSessions": (revoke_user_sessions,),
    "CreateTotpFactor": (create_totp_factor,),
    "ConfirmTotpFactor": (confirm_totp_factor,),
    "CreateRecoveryCodes": (replace_recovery_codes,),
    "BeginPasskeyRegistration": (begin_passkey_registration,),
    "FinishPasskeyRegistration": (finish_passkey_registration,),
    "UpdateFactor": (update_factor,),
    "DeleteFactor": (delete_app, delete_recovery_codes),
}
"""The preparations of each call. A test compares the names with the existing methods."""
