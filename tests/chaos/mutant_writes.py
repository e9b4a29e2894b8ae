"""Mutants of writes: each lacks one protection."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import select, update

from tamatar_auth.errors.users import EmailTaken
from tamatar_auth.storage import sqlstates
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.driver import connect
from tamatar_auth.storage.repositories.users import USER_COLUMNS, UserRepository, UserRow
from tamatar_auth.storage.tables import users
from tests.chaos.mutants import go_on, swap


def forgets_commits() -> None:
    """Roll back one transaction in ten, and acknowledge it."""
    numbers = itertools.count()

    @asynccontextmanager
    async def forgetful(self: Database) -> AsyncIterator[Scope]:
        async with self._connection(self._transactional) as connection:
            yield Scope(connection)
            if next(numbers) % 10:
                await connection.commit()

    swap(Database, "transaction", forgetful)


def answers_before_the_commit() -> None:
    """Commit a moment after the response."""

    @asynccontextmanager
    async def early(self: Database) -> AsyncIterator[Scope]:
        connection = await self._transactional.connect()
        try:
            yield Scope(connection)
        except BaseException:
            await connection.close()
            raise
        go_on(_commit_later(connection))

    swap(Database, "transaction", early)


def runs_lost_commits_again() -> None:
    """Run a call again after its connection broke, although its commit may have happened."""
    swap(sqlstates, "ROLLED_BACK", sqlstates.ROLLED_BACK | {"57P01", None})


def forgets_request_ids() -> None:
    """Treat a repeated creation as a new one."""

    async def found(_self: Any, *_request: Any) -> None:
        return None

    add = UserRepository.add

    async def anonymous(self: Any, new: Any) -> Any:
        return await add(self, replace(new, request_id=None, request_digest=None))

    swap(UserRepository, "find_created_by", found)
    swap(UserRepository, "add", anonymous)


def looks_before_it_adds() -> None:
    """Replace the unique index on addresses by a read before the insertion."""
    add = UserRepository.add
    with psycopg.connect(os.environ["TAMATAR_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP INDEX IF EXISTS uq_users_email_live")

    async def looking(self: Any, new: Any) -> Any:
        same = (users.c.email == new.email) & users.c.deleted_at.is_(None)
        if (await self._connection.execute(select(users.c.id).where(same))).first():
            raise EmailTaken
        return await add(self, new)

    swap(UserRepository, "add", looking)


def loses_updates() -> None:
    """Read a user without a lock, and write it with the next version."""

    async def unlocked(self: Any, user_id: Any, version: Any = None, **named: Any) -> Any:
        return await self.get(user_id, **named)

    async def changed(self: Any, user: Any, values: Any) -> Any:
        statement = update(users).where(users.c.id == user.id)
        counted = {**values, "version": user.version + 1}
        found = await self._connection.execute(statement.values(counted).returning(*USER_COLUMNS))
        return UserRow._make(found.one())

    swap(UserRepository, "_lock", unlocked)
    swap(UserRepository, "_change", changed)


def creates_by_halves() -> None:
    """Commit a user before its profile."""
    add = UserRepository.add

    async def committed(self: Any, new: Any) -> Any:
        user = await add(self, new)
        connection = self._connection.sync_connection.connection.driver_connection
        await connection.commit()
        await asyncio.sleep(0.05)
        return user

    swap(UserRepository, "add", committed)


def does_not_wait_for_the_disk() -> None:
    """Answer a commit before it is on the disk."""
    arguments = connect._arguments
    hasty = "-c synchronous_commit=off"
    swap(
        connect,
        "_arguments",
        lambda settings, name, options: arguments(settings, name, f"{options} {hasty}"),
    )


async def _commit_later(connection: Any) -> None:
    await asyncio.sleep(0.1)
    await connection.commit()
    await connection.close()


MUTANTS = (
    forgets_commits,
    answers_before_the_commit,
    runs_lost_commits_again,
    forgets_request_ids,
    looks_before_it_adds,
    loses_updates,
    creates_by_halves,
    does_not_wait_for_the_disk,
)
