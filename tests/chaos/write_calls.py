"""Every call that changes something, with its preparation."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import func, update

from tamatar.auth.v1 import session_service_pb2, user_pb2, user_service_pb2
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.tables import sessions as sessions_table
from tests.support.calls import (
    NEW_PASSWORD,
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
from tests.support.rows import run

Call = Callable[[], Any]
"""Makes the same call any number of times."""


@dataclass(frozen=True)
class Scene:
    """The users and sessions of the calls."""

    users: Any
    sessions: Any
    database: Database

    async def user(self, **given: Any) -> Any:
        """Create a user with a unique address, who can sign in."""
        values = {"email": f"{uuid4()}@example.com", "email_verified": True} | given
        return (await self.users.CreateUser(ada(**values))).user

    async def session(self, user: Any) -> Any:
        """Sign a user in."""
        return await self.sessions.CreateSession(sign_in(email=user.email))

    async def busy_user(self) -> Any:
        """Create a user with a session and a one-time token."""
        user = await self.user()
        await self.session(user)
        await password_reset(self.users, user.email)
        return user

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
    "CreateSession": (create_session,),
    "RefreshSession": (refresh_session, reuse_token),
    "RevokeSession": (revoke_session, revoke_session_by_token),
    "RevokeUserSessions": (revoke_user_sessions,),
}
"""The preparations of each call. A test compares the names with the existing methods."""
