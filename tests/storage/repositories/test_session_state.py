"""Uses of sessions: when they are recorded, and what the record costs."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from tamatar_auth.storage.database import Scope
from tamatar_auth.storage.repositories.session_state import ACTIVITY_PRECISION, is_stale
from tamatar_auth.storage.tables import sessions
from tests.support.rows import new_session, new_user

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
async def scope(database):
    """A transaction with one session of one user."""
    async with database.transaction() as tx:
        user = await tx.users.add(new_user())
        await tx.sessions.add(new_session(user.id, expires_at=datetime.now(UTC) + DAY))
        yield tx


async def age(scope, unused_for):
    before = sessions.c.created_at - unused_for
    await scope.connection.execute(update(sessions).values(last_activity_at=before))


@pytest.mark.parametrize(
    ("idle_limit", "precision"),
    [
        (None, ACTIVITY_PRECISION),
        (MINUTE, MINUTE / 4),
        (4 * MINUTE, MINUTE),
        (20 * MINUTE, MINUTE),
        (60 * MINUTE, 3 * MINUTE),
        (100 * MINUTE, ACTIVITY_PRECISION),
        (30 * DAY, ACTIVITY_PRECISION),
    ],
)
async def test_precision_of_uses_follows_idle_limit(scope, idle_limit, precision):
    found = []
    # now() is the same in the whole transaction.
    for unused_for in (precision - timedelta(microseconds=1), precision):
        await age(scope, unused_for)
        answer = await scope.connection.execute(select(is_stale), {"idle_limit": idle_limit})
        found.append(answer.scalar_one())

    assert found == [False, True]


async def test_record_of_use_is_a_hot_update(scope: Scope, database):
    if database.engine.dialect.server_version_info < (16,):
        pytest.skip("PostgreSQL 15 writes the BRIN index with each use")
    found = select(sessions.c.id, sessions.c.expires_at)
    key, expires_at = (await scope.connection.execute(found)).one()
    hot = text(
        "SELECT sum(pg_stat_get_xact_tuples_hot_updated(oid)) FROM pg_class"
        " WHERE relkind = 'r' AND relname LIKE 'sessions%'"
    )
    await age(scope, DAY)
    before = (await scope.connection.execute(hot)).scalar_one()

    await scope.sessions.touch({key: expires_at})

    assert (await scope.connection.execute(hot)).scalar_one() == before + 1
