"""The check of a password: wrong ones are counted, and refusals do not reveal their cause."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.storage import TransactionConflict
from tamatar_auth.errors.users import Cause, InvalidCredentials, TooManyAttempts
from tamatar_auth.security.attempt_keys import key_of_account, key_without_account
from tamatar_auth.security.passwords.hasher import PasswordHasher, PasswordPermit
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.credentials import (
    NO_CREDENTIALS,
    CredentialRepository,
    Credentials,
)
from tamatar_auth.storage.repositories.login_attempts import AttemptKeys
from tamatar_auth.storage.retry import backoff

RESERVATION_WAIT = 5.0
"""Seconds that a call waits while other calls check passwords of the same name, or codes
of the same user."""

CANCELLED_RESERVATION_TIMEOUT = 0.1
"""Seconds after which the statement that reserves an attempt is cancelled, if its call was. At once
the outcome would stay unknown, and a reservation would count until it expires."""

SETTLE_TIMEOUT = 1.0
"""Seconds to settle the attempt of a call that has failed; otherwise its reservation expires."""

LONGEST_BACKOFF = 3
"""The number of the poll after which the backoff, 0.16 s, stays the same."""


class Identity(NamedTuple):
    """The value by which a request names a user, and the methods that use it."""

    find: Callable[[CredentialRepository, Any], Awaitable[Credentials]]
    value: Any
    typed: bytes
    """The key under which attempts with this value are counted."""

    def __repr__(self) -> str:
        return "Identity()"


class Attempt(NamedTuple):
    """A reserved attempt: its counters, and the credentials that the password must match."""

    keys: AttemptKeys
    credentials: Credentials
    is_disabled: bool

    def __repr__(self) -> str:
        return "Attempt()"

    @property
    def usable_hash(self) -> str | None:
        """The hash, or None if no password is right."""
        return None if self.is_disabled else self.credentials.usable_hash

    @property
    def cause(self) -> Cause:
        """The cause of the refusal."""
        if self.credentials is NO_CREDENTIALS:
            return Cause.NO_USER
        if not self.credentials.is_active:
            return Cause.INACTIVE_USER
        if self.credentials.password_hash is None:
            return Cause.NO_PASSWORD
        return Cause.TOO_MANY_ATTEMPTS if self.is_disabled else Cause.WRONG_PASSWORD


class PasswordCheck:
    """Checks passwords against the stored credentials."""

    def __init__(self, database: Database, passwords: PasswordHasher) -> None:
        self._database = database
        self._hash_queue = passwords.hash_queue
        self.permit = passwords.permit
        self._unsettled: set[asyncio.Task[None]] = set()
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def verified(
        self, permit: PasswordPermit, identity: Identity, password: str
    ) -> AsyncIterator[Credentials]:
        """Yield the credentials of a user whose password is right.

        Raise `InvalidCredentials`, `TooManyAttempts` or `ServerBusy`. All causes run the same
        three statements, and compute one hash unless what was typed must wait.

        The block raises `InvalidCredentials` if the credentials changed since the check.
        `TransactionConflict` replaces it if the password is still right: the call runs again.
        """
        attempt = await self._reserve(identity)
        if not await self._check(permit, attempt, password):
            raise InvalidCredentials(attempt.cause, attempt.keys.user_id)
        try:
            yield attempt.credentials
        except InvalidCredentials:
            # A sign-in at the same time may have replaced an outdated hash.
            async with self._database.read() as db:
                current = await identity.find(db.credentials, identity.value)
            if await permit.matches(password, current.usable_hash):
                raise TransactionConflict from None
            raise

    async def _reserve(self, identity: Identity) -> Attempt:
        """Reserve an attempt, and wait while too many others are in progress.

        The call has a permit, so few calls may wait: sign-ins of other users need permits too.
        """
        attempt = await self._try_to_reserve(identity)
        if attempt is not None:
            return attempt
        time = asyncio.get_running_loop().time
        until = time() + RESERVATION_WAIT
        with self._hash_queue.idle():
            async with self._turn(identity.typed, until):
                polls = 0
                while (attempt := await self._try_to_reserve(identity)) is None:
                    if time() > until:
                        raise ServerBusy
                    await asyncio.sleep(backoff(min(polls, LONGEST_BACKOFF)))
                    polls += 1
        return attempt

    async def _try_to_reserve(self, identity: Identity) -> Attempt | None:
        """Reserve an attempt, return None if others are in progress, or raise.

        If the call is cancelled while PostgreSQL makes a reservation, it is released.
        """
        reserving = asyncio.create_task(self._reserve_once(identity))
        try:
            await asyncio.wait([reserving])
        except asyncio.CancelledError:
            self._finish_later(self._release_after(reserving))
            raise
        return reserving.result()

    async def _reserve_once(self, identity: Identity) -> Attempt | None:
        async with self._database.read() as db:
            credentials = await identity.find(db.credentials, identity.value)
            keys = _keys(identity, credentials)
            reservation = await db.attempts.reserve(keys)
        if reservation.wait is not None:
            raise TooManyAttempts(reservation.wait, keys.user_id)
        is_granted, is_disabled = reservation.is_granted, reservation.is_disabled
        return Attempt(keys, credentials, is_disabled) if is_granted else None

    @contextlib.asynccontextmanager
    async def _turn(self, typed: bytes, until: float) -> AsyncIterator[None]:
        """Hold the turn to poll: one call at a time, so that a flood does not fill the pool."""
        turn = self._turns.setdefault(typed, asyncio.Lock())
        try:
            async with asyncio.timeout_at(until):
                await turn.acquire()
        except TimeoutError:
            raise ServerBusy from None
        try:
            yield
        finally:
            turn.release()

    async def _check(self, permit: PasswordPermit, attempt: Attempt, password: str) -> bool:
        """Check the password and settle the attempt. No connection is held during the hash."""
        hashing = asyncio.ensure_future(permit.matches(password, attempt.usable_hash))
        async with contextlib.AsyncExitStack() as stack:
            try:
                is_right = await asyncio.shield(hashing)
                db = await stack.enter_async_context(self._database.statements())
            except BaseException:  # nothing is settled: the call was cancelled, or the pool is full
                permit.drop()
                self._finish_later(self._settle_after(hashing, attempt))
                raise
            return await _settle(db, attempt, is_right=is_right)

    def _finish_later(self, work: Coroutine[Any, Any, None]) -> None:
        # A task with an empty context, because the call and its context are over.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._unsettled.add(task)
        task.add_done_callback(self._unsettled.discard)

    async def _release_after(self, reserving: "asyncio.Task[Attempt | None]") -> None:
        with contextlib.suppress(Exception):  # the reservation expires then
            attempt = await asyncio.wait_for(reserving, CANCELLED_RESERVATION_TIMEOUT)
            if attempt is not None:
                async with asyncio.timeout(SETTLE_TIMEOUT), self._database.statements() as db:
                    await db.attempts.release(attempt.keys)

    async def _settle_after(self, hashing: "asyncio.Future[bool]", attempt: Attempt) -> None:
        with contextlib.suppress(Exception):  # the reservation expires then
            await asyncio.wait([hashing])
            async with asyncio.timeout(SETTLE_TIMEOUT), self._database.statements() as db:
                if hashing.cancelled():  # it was not checked
                    await db.attempts.release(attempt.keys)
                else:
                    await _settle(db, attempt, is_right=hashing.result())


async def _settle(db: Scope, attempt: Attempt, *, is_right: bool) -> bool:
    """Settle the attempt, even if the call is cancelled; return whether it succeeded."""
    if is_right and await db.attempts.record_success(attempt.keys):
        return True
    await db.attempts.record_failure(attempt.keys)
    return False


def _keys(identity: Identity, credentials: Credentials) -> AttemptKeys:
    if credentials is NO_CREDENTIALS:
        return AttemptKeys(identity.typed, key_without_account(identity.typed), None)
    return AttemptKeys(identity.typed, key_of_account(credentials.user_id), credentials.user_id)
