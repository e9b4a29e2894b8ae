"""Rows of tests: one builder of defaults for each table, and a way to run statements."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, Executable, update
from uuid_utils.compat import uuid7

from tamatar_auth.security.tokens import SessionToken
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.sessions import NewSession
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import password_attempts


def new_user(**given: Any) -> NewUser:
    """Return a user with a unique address."""
    key = uuid7()
    return NewUser(**{"id": key, "email": f"{key}@example.com", **given})


def new_session(user_id: UUID, **given: Any) -> NewSession:
    """Return a session with a new token."""
    token = SessionToken.issue()
    return NewSession(**{"id": uuid7(), "user_id": user_id, "token_digest": token.digest, **given})


async def wait_longer(database: Database) -> None:
    """Add an hour to the wait of all accounts that must wait.

    The first wait is one second, which a slow machine may exceed. Callers then get
    `MAX_WAIT` as the retry delay.
    """
    wait = password_attempts.c.blocked_until - password_attempts.c.last_tried_at
    later = password_attempts.c.blocked_until + timedelta(hours=1)
    waiting = update(password_attempts).where(wait > timedelta(milliseconds=500))
    await run(database, waiting.values(blocked_until=later))


async def run(database: Database, statement: Executable) -> CursorResult[Any]:
    """Run one statement in a transaction of its own."""
    async with database.transaction() as tx:
        return await tx.connection.execute(statement)
