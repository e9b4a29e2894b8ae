"""The check of a password: attempts are counted, and refusals do not reveal their cause."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from typing import Any, NamedTuple

from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.errors.users import Cause, InvalidCredentials, TooManyAttempts
from tamatar_auth.security.attempt_keys import account_of_user
from tamatar_auth.security.passwords.hasher import PasswordHasher, PasswordPermit
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.credentials import (
    NO_CREDENTIALS,
    CredentialRepository,
    Credentials,
)

UNDO_TIMEOUT = 1.0
"""Seconds to uncount an attempt; after that the attempt counts."""


class Identity(NamedTuple):
    """The value by which a request names a user, and the methods that use it."""

    find: Callable[[CredentialRepository, Any], Awaitable[Credentials]]
    value: Any
    unknown_account: bytes
    """The account of the attempts, if no user has the value."""

    def __repr__(self) -> str:
        return "Identity()"


class PasswordCheck:
    """Checks passwords against the stored credentials."""

    def __init__(self, database: Database, passwords: PasswordHasher) -> None:
        self._database = database
        self.permit = passwords.permit
        self._undo_tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def verified(
        self, permit: PasswordPermit, identity: Identity, password: str
    ) -> AsyncIterator[Credentials]:
        """Yield the credentials of a user whose password is right.

        Raise `InvalidCredentials` or `TooManyAttempts`. All causes run the same two statements,
        and compute one hash unless the account must wait.

        The block raises `InvalidCredentials` if the credentials changed since the check.
        `TransactionConflict` replaces it if the password is still right: the call runs again.
        """
        credentials = await self._check(permit, identity, password)
        try:
            yield credentials
        except InvalidCredentials:
            # A sign-in at the same time may have replaced an outdated hash.
            async with self._database.read() as db:
                current = await identity.find(db.credentials, identity.value)
            if await permit.matches(password, current.usable_hash):
                raise TransactionConflict from None
            raise

    async def _check(
        self, permit: PasswordPermit, identity: Identity, password: str
    ) -> Credentials:
        """Count an attempt, check the password, and clear the count if it is right."""
        # Each statement commits by itself: the attempt counts even if the call is cancelled.
        async with self._database.read() as db:
            credentials = await identity.find(db.credentials, identity.value)
            user_id = None if credentials is NO_CREDENTIALS else credentials.user_id
            account = identity.unknown_account if user_id is None else account_of_user(user_id)
            wait = await db.attempts.record_attempt(account, user_id)
        if wait is not None:
            raise TooManyAttempts(wait, user_id)
        if not await self._matches(permit, password, credentials, account):
            raise InvalidCredentials(_cause(credentials), user_id)
        async with self._database.read() as db:
            await db.attempts.clear(account)
        return credentials

    async def _matches(
        self, permit: PasswordPermit, password: str, credentials: Credentials, account: bytes
    ) -> bool:
        """Check the password without a connection, because a hash takes a quarter of a second."""
        try:
            return await permit.matches(password, credentials.usable_hash)
        except asyncio.CancelledError:
            if permit.was_dropped:  # the password was not checked
                self._undo_attempt_later(account)
            raise

    def _undo_attempt_later(self, account: bytes) -> None:
        # A task with an empty context, because the call and its context are over.
        task = asyncio.get_running_loop().create_task(
            self._undo_attempt(account), context=Context()
        )
        self._undo_tasks.add(task)
        task.add_done_callback(self._undo_tasks.discard)

    async def _undo_attempt(self, account: bytes) -> None:
        with contextlib.suppress(Exception):  # the attempt counts then
            async with asyncio.timeout(UNDO_TIMEOUT), self._database.read() as db:
                await db.attempts.undo_attempt(account)


def _cause(credentials: Credentials) -> Cause:
    if credentials is NO_CREDENTIALS:
        return Cause.NO_USER
    if not credentials.is_active:
        return Cause.INACTIVE_USER
    return Cause.NO_PASSWORD if credentials.password_hash is None else Cause.WRONG_PASSWORD
