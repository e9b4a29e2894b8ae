"""Cursors with a lazy description."""

import psycopg

from tamatar_auth.storage.driver.cursors import Cursor


async def test_description_equals_that_of_psycopg(database_url):
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = Cursor(connection)
        await cursor.execute("SELECT 1 AS one, 'x'::varchar(3) AS two")
        expected = [tuple(it) for it in psycopg.AsyncCursor.description.fget(cursor)]

        assert [tuple(it) for it in cursor.description] == expected
        assert len(cursor.description) == 2
        assert tuple(cursor.description[1]) == expected[1]


async def test_description_without_rows_is_none(database_url):
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = Cursor(connection)
        assert cursor.description is None
        await cursor.execute("SET LOCAL work_mem = '8MB'")
        assert cursor.description is None
