"""Transactions that fail at their COMMIT, and not before."""

import contextlib
from collections.abc import AsyncIterator

from sqlalchemy import Table, text

from tamatar_auth.storage.database import Database
from tests.support.rows import run

_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'disk_full'; END $$
"""
_TRIGGER = """
CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT OR UPDATE OR DELETE ON {table}
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit()
"""


@contextlib.asynccontextmanager
async def commits_fail(database: Database, *tables: Table) -> AsyncIterator[None]:
    """Let each transaction that changes one of the tables fail when it commits."""
    await run(database, text(_FUNCTION))
    try:
        for table in tables:
            await run(database, text(_TRIGGER.format(table=table.name)))
        yield
    finally:
        await run(database, text("DROP FUNCTION refuse_commit CASCADE"))
