"""The final rows of a database."""

import psycopg
from psycopg.rows import class_row

from tests.chaos.evidence import Stored, StoredSession, StoredUser

_USERS = """
    SELECT u.id::text, email, coalesce(first_name, '') AS first_name, is_active,
        deleted_at IS NOT NULL AS is_deleted, version, p.user_id IS NOT NULL AS has_profile
    FROM users u LEFT JOIN user_profiles p ON p.user_id = u.id
"""
_SESSIONS = 'SELECT id::text, user_id::text AS "user", is_valid FROM sessions'


async def read_stored(url: str) -> Stored:
    """Return the users and the sessions of a database."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        users = await connection.cursor(row_factory=class_row(StoredUser)).execute(_USERS)
        sessions = connection.cursor(row_factory=class_row(StoredSession))
        found = await (await sessions.execute(_SESSIONS)).fetchall()
        return Stored(
            {user.id: user for user in await users.fetchall()},
            {session.id: session for session in found},
        )
