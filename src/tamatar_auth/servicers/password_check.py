"""Checks a password, on every path that takes one: counted, and alike in its refusals."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeVar

from tamatar_auth.errors.users import Cause, InvalidCredentials, TooManyAttempts
from tamatar_auth.security.attempt_keys import account_of_user
from tamatar_auth.security.passwords.hasher import PasswordHasher, PasswordPermit
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.credentials import NO_CREDENTIALS, Credentials

UNDO_TIMEOUT = 1.0
"""Seconds in which an attempt is given back; a database that is away keeps no call for it."""

Answer = TypeVar("Answer")
FindCredentials = Callable[[Scope], Awaitable[Credentials]]
IdentifyUser = Callable[[], tuple[FindCredentials, bytes]]
"""Tells how the user is found, and the account that counts where there is none."""
VerifiedWork = Callable[[Credentials, PasswordPermit], Awaitable[Answer]]
"""Does what a right password allows, in the turn of its check, or raises `InvalidCredentials`
if the password or its user is not as it was checked."""


class PasswordCheck:
    """Finds credentials and checks a password against them."""

    def __init__(self, database: Database, passwords: PasswordHasher) -> None:
        self._database = database
        self._passwords = passwords
        self._undo_tasks: set[asyncio.Task[None]] = set()

    async def run_verified(
        self, work: VerifiedWork[Answer], identify: IdentifyUser, password: str
    ) -> Answer:
        """Return what the work makes of the credentials, when the password is theirs.

        Raise `InvalidCredentials` or `TooManyAttempts`. Whatever the cause, the same two
        statements run, and one hash is computed unless the attempt is not looked at. Raise
        `ServerBusy` before anything is read or counted: nobody is locked out by a crowd.
        """
        async with self._passwords.permit() as permit:
            find, unknown_account = identify()
            return await self._run_verified(work, find, password, unknown_account, permit)

    async def _run_verified(
        self,
        work: VerifiedWork[Answer],
        find: FindCredentials,
        password: str,
        unknown_account: bytes,
        permit: PasswordPermit,
    ) -> Answer:
        checked = await self._verify_counted(find, password, unknown_account, permit)
        try:
            return await work(checked, permit)
        except InvalidCredentials:
            # Another sign-in may have replaced an outdated hash by one of the same password.
            async with self._database.read() as db:
                again = await find(db)
            if not await permit.matches(password, again.usable_hash):
                raise
            return await work(again, permit)

    async def _verify_counted(
        self, find: FindCredentials, password: str, unknown_account: bytes, permit: PasswordPermit
    ) -> Credentials:
        """Check a password, and count it as an attempt unless it is right."""
        async with self._database.read() as db:
            credentials = await find(db)
            user_id = None if credentials is NO_CREDENTIALS else credentials.user_id
            account = _account(credentials, unknown_account)
            # Each statement is a transaction of its own here: the attempt is counted
            # whatever becomes of the call.
            wait = await db.attempts.record_attempt(account, user_id)
        if wait is not None:
            raise TooManyAttempts(wait, user_id)
        # No connection is held while bcrypt burns its quarter of a second.
        try:
            is_right = await permit.matches(password, credentials.usable_hash)
        except asyncio.CancelledError:
            if permit.was_dropped:  # nothing was learned, so it was no attempt
                self._undo_attempt_later(account)
            raise
        if not is_right:
            raise InvalidCredentials(_cause(credentials), user_id)
        # A right password is no attempt, whatever the call goes on to decide.
        async with self._database.read() as db:
            await db.attempts.clear(account)
        return credentials

    def _undo_attempt_later(self, account: bytes) -> None:
        # In a task and a context of its own: the call is over, and is told so until it ends.
        task = asyncio.get_running_loop().create_task(
            self._undo_attempt(account), context=Context()
        )
        self._undo_tasks.add(task)
        task.add_done_callback(self._undo_tasks.discard)

    async def _undo_attempt(self, account: bytes) -> None:
        # Whatever keeps it from being given back, it counts then.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(UNDO_TIMEOUT), self._database.read() as db:
                await db.attempts.undo_attempt(account)


def _account(credentials: Credentials, unknown: bytes) -> bytes:
    return unknown if credentials is NO_CREDENTIALS else account_of_user(credentials.user_id)


def _cause(credentials: Credentials) -> Cause:
    if credentials is NO_CREDENTIALS:
        return Cause.NO_USER
    if not credentials.is_active:
        return Cause.INACTIVE_USER
    return Cause.NO_PASSWORD if credentials.password_hash is None else Cause.WRONG_PASSWORD
