"""The throttle of codes: wrong ones count as wrong passwords of the account do.

A user's codes have a counter and waits of their own. A right code ends the count of codes alone,
and a right password that of passwords alone: neither allows more guesses at the other.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.users import TooManyAttempts
from tamatar_auth.security.attempt_keys import key_of_account, key_of_proof, key_without_account
from tamatar_auth.servicers import password_check
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories.login_attempts import AttemptKeys
from tamatar_auth.storage.retry import backoff


class ProofAttempts:
    """Reserves and settles attempts with codes. An attempt that is not settled soon expires."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def reserved(self, keys: AttemptKeys) -> AsyncIterator[tuple[Scope, bool]]:
        """Reserve an attempt. Yield False if so many codes were wrong that none is right.

        Yield the connection too: the check on it waits for no other while the attempt counts.
        Raise `TooManyAttempts` or `ServerBusy` if no code may be checked now.
        """
        time = asyncio.get_running_loop().time
        until, polls = time() + password_check.RESERVATION_WAIT, 0
        while True:
            async with self._database.statements() as db:
                reservation = await db.attempts.reserve(_own_counter(keys))
                if reservation.is_granted:
                    yield db, not reservation.is_disabled
                    return
            if reservation.wait is not None:
                raise TooManyAttempts(reservation.wait, keys.user_id)
            if time() > until:
                raise ServerBusy
            await asyncio.sleep(backoff(min(polls, password_check.LONGEST_BACKOFF)))
            polls += 1


async def settle(db: Scope, keys: AttemptKeys, *, is_right: bool) -> bool:
    """Settle an attempt, and return whether it succeeded."""
    if is_right and await db.attempts.record_success(_own_counter(keys)):
        return True
    await db.attempts.record_failure(keys)
    return False


def keys_of_user(user_id: UUID) -> AttemptKeys:
    """Return the counters of a user's codes and of the account."""
    return AttemptKeys(key_of_proof(user_id), key_of_account(user_id), user_id, user_id)


def keys_without_user(token_digest: bytes) -> AttemptKeys:
    """Return the counters for an answer to no challenge. They take the same time."""
    return AttemptKeys(token_digest, key_without_account(token_digest), None)


def _own_counter(keys: AttemptKeys) -> AttemptKeys:
    """Return the keys of the counter of codes alone: the account's is that of passwords."""
    return keys._replace(account=keys.typed)
