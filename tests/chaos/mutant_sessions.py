"""Mutants of sessions: each lacks one protection."""

import asyncio
import time
from typing import Any
from uuid import UUID
from weakref import WeakSet

from sqlalchemy import update

from tamatar.auth.v1.session_service_pb2 import RevokeSessionResponse
from tamatar_auth.servicers.sessions import SessionServicer
from tamatar_auth.storage.repositories.credentials import CredentialRepository
from tamatar_auth.storage.repositories.sessions import SessionRepository
from tamatar_auth.storage.repositories.token_keys import TokenKey
from tamatar_auth.storage.repositories.users import UserRepository
from tamatar_auth.storage.session_events.feed import SessionEndFeed, _Listener
from tamatar_auth.storage.session_validation.validator import SessionValidator
from tamatar_auth.storage.tables import sessions
from tests.chaos.mutants import go_on, swap


def revokes_after_the_answer() -> None:
    """Revoke a session a moment after the response."""
    revoke = SessionServicer.RevokeSession

    async def hasty(self: Any, request: Any, context: Any) -> Any:
        async with self._database.read() as db:
            await db.sessions.get(UUID(request.session_id))

        async def later() -> None:
            await asyncio.sleep(0.1)
            await revoke(self, request, context)

        go_on(later())
        return RevokeSessionResponse()

    swap(SessionServicer, "RevokeSession", hasty)


def validates_from_a_cache() -> None:
    """Reuse the result of a validation for a second."""
    look = SessionValidator.validate
    known: dict[TokenKey, Any] = {}

    async def cached(self: Any, key: TokenKey) -> Any:
        found, at = known.get(key, (None, 0.0))
        if found is None or time.monotonic() - at > 1:
            found, at = await look(self, key), time.monotonic()
            known[key] = found, at
        return found

    swap(SessionValidator, "validate", cached)


def joins_statements_that_run() -> None:
    """Answer a validation from a statement that began before the call."""
    look = SessionValidator.validate
    asked: dict[TokenKey, Any] = {}

    async def joined(self: Any, key: TokenKey) -> Any:
        if key not in asked:
            asked[key] = asyncio.ensure_future(slow(self, key))
            asked[key].add_done_callback(lambda _: asked.pop(key))
        return await asyncio.shield(asked[key])

    async def slow(self: Any, key: TokenKey) -> Any:
        found = await look(self, key)
        await asyncio.sleep(0.05)
        return found

    swap(SessionValidator, "validate", joined)


def keeps_sessions_of_changed_passwords() -> None:
    """End no session when a password changes."""
    replace, revoke = CredentialRepository.replace, SessionRepository.revoke_of_user
    changing: WeakSet[Any] = WeakSet()

    async def noted(self: Any, *given: Any) -> Any:
        changing.add(self._connection)
        return await replace(self, *given)

    async def kept(self: Any, user_id: Any, *, except_id: Any = None) -> int:
        return (
            0 if self._connection in changing else await revoke(self, user_id, except_id=except_id)
        )

    swap(CredentialRepository, "replace", noted)
    swap(SessionRepository, "revoke_of_user", kept)


def keeps_sessions_of_deleted_users() -> None:
    """End no session when a user is deleted; only validation refuses them."""
    delete, revoke = UserRepository.delete, SessionRepository.revoke_of_user
    deleting: WeakSet[Any] = WeakSet()

    async def noted(self: Any, *given: Any, **named: Any) -> Any:
        deleting.add(self._connection)
        return await delete(self, *given, **named)

    async def kept(self: Any, user_id: Any, *, except_id: Any = None) -> int:
        return (
            0 if self._connection in deleting else await revoke(self, user_id, except_id=except_id)
        )

    swap(UserRepository, "delete", noted)
    swap(SessionRepository, "revoke_of_user", kept)


def revives_sessions() -> None:
    """Give a reactivated user the former sessions back."""
    set_active = UserRepository.set_active

    async def reviving(self: Any, user_id: Any, *, active: bool) -> Any:
        if active:
            await self._connection.execute(
                update(sessions)
                .where(sessions.c.user_id == user_id)
                .values(is_valid=True, revoked_at=None)
            )
        return await set_active(self, user_id, active=active)

    swap(UserRepository, "set_active", reviving)


def goes_on_after_a_gap() -> None:
    """Keep watches open although the listener was away."""

    def kept(self: Any, listener: Any) -> None:
        if self._listener is listener:
            self._listener = None if self._is_closed else _Listener(self._listen)
        if self._listener is not None:
            self._listener.subscribers = listener.subscribers

    swap(SessionEndFeed, "_drop", kept)


MUTANTS = (
    goes_on_after_a_gap,
    revokes_after_the_answer,
    validates_from_a_cache,
    joins_statements_that_run,
    keeps_sessions_of_changed_passwords,
    keeps_sessions_of_deleted_users,
    revives_sessions,
)
