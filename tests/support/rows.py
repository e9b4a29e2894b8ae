"""Rows of tests: one builder of defaults for each table, and a way to run statements."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, Executable, func, select, update
from uuid_utils.compat import uuid7

from tamatar_auth.security.tokens import SessionToken
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.sessions import NewSession
from tamatar_auth.storage.repositories.users import NewUser
from tamatar_auth.storage.tables import password_attempts, sessions

WEEK = timedelta(days=7)
"""The lifetime of sessions by default."""


def new_user(**given: Any) -> NewUser:
    """Return a user with a unique address."""
    key = uuid7()
    return NewUser(**{"id": key, "email": f"{key}@example.com", **given})


def new_token(user_id: UUID | None = None, expires_at: datetime | None = None) -> SessionToken:
    """Return a new token, of a session that expires in a week unless a time is given."""
    return SessionToken.issue(user_id or uuid7(), expires_at or datetime.now(UTC) + WEEK)


def new_session(user_id: UUID, **given: Any) -> NewSession:
    """Return a session of a week with a new token."""
    expires_at = given.setdefault("expires_at", datetime.now(UTC) + WEEK)
    token = new_token(user_id, expires_at)
    return NewSession(**{"id": uuid7(), "user_id": user_id, "token_digest": token.digest, **given})


async def expire(database: Database, token: str) -> str:
    """Expire the session of a token, and return the token of that day.

    The service never changes when a session expires, so its token knows the day.
    """
    is_session = sessions.c.token_digest == SessionToken(token).digest
    async with database.transaction() as tx:
        found = select(sessions.c.user_id, func.now()).where(is_session)
        user_id, now = (await tx.connection.execute(found)).one()
        expired = SessionToken.issue(user_id, now)
        moved = {"created_at": now - WEEK, "expires_at": now, "token_digest": expired.digest}
        await tx.connection.execute(update(sessions).where(is_session).values(moved))
    return expired.text


async def former_token(database: Database, token: str) -> str:
    """Replace the token of a session by one of the former format, and return that."""
    former = SessionToken(f"tms_{secrets.token_urlsafe(32)}")
    is_session = sessions.c.token_digest == SessionToken(token).digest
    await run(database, update(sessions).where(is_session).values(token_digest=former.digest))
    return former.text


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
