"""Plans of lists: no list reads or sorts a whole table, by any plan."""

import os
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import event

from tamatar_auth.security.tokens import token_digest
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.limits import INDEX_PLAN_OPTIONS
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories import KeysetCursor, user_counts
from tamatar_auth.storage.repositories.expired_rows import ExpiredRows
from tamatar_auth.storage.repositories.user_filters import Deleted, UserFilter, UserOrder
from tamatar_auth.storage.repositories.user_pages import MAX_SORTED_ROWS
from tamatar_auth.storage.session_validation.statement import sessions_of_days, sessions_of_one_day
from tests.support.databases import TEMPLATE

SIZE = 51
START = datetime(2026, 1, 1, tzinfo=UTC)
BUSY_USER = UUID(int=1)

# The oldest were imported at one moment. The newest are unverified and far from them.
USERS = """
    INSERT INTO users (
        id, email, username, email_verified, is_active, created_at, updated_at, deleted_at
    )
    SELECT lpad(to_hex(n), 32, '0')::uuid,
           CASE WHEN n % 2 = 0 THEN 'user' ELSE substr(md5(n::text), 1, 6) END
               || n || '@example.com',
           substr(md5('name' || n), 1, 8) || n,
           n < 95000, n % 100 NOT IN (3, 5),
           timestamptz '2026-01-01Z' + greatest(n, 30000) * interval '1 min',
           timestamptz '2026-01-01Z' + n * 7919 % 100000 * interval '1 min',
           CASE WHEN n % 100 = 3 THEN now() END
    FROM generate_series(1, 100000) n
"""

# One user has half of the sessions, a hundred of which are live.
SESSIONS = """
    INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at, is_valid, revoked_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(greatest(n - 25000, 1)), 32, '0')::uuid,
           sha256(n::text::bytea), now() - interval '2 days' - n * interval '1 s',
           now() + CASE WHEN n < 25000 THEN interval '7 days' ELSE interval '-1 day' END,
           n >= 25000 OR n % 250 = 0,
           CASE WHEN n >= 25000 OR n % 250 = 0 THEN NULL ELSE now() END
    FROM generate_series(1, 50000) n
"""

FILTERS = {
    "everybody": {},
    "unverified": {"email_verified": False},
    "inactive": {"is_active": False},
    "unverified and active": {"email_verified": False, "is_active": True},
    "a wide email prefix": {"email_prefix": "user"},
    "a narrow email prefix": {"email_prefix": "user12"},
    "an unused email prefix": {"email_prefix": "zz"},
    "an email prefix with wildcards": {"email_prefix": "us_r%"},
    "a wide username prefix": {"username_prefix": "a"},
    "a narrow username prefix": {"username_prefix": "abc"},
    "a wide time": {"created_from": START + timedelta(days=30)},
    "a narrow time": {
        "created_from": START + timedelta(days=30),
        "created_before": START + timedelta(days=31),
    },
    "before a time": {"created_before": START + timedelta(days=30)},
    "a prefix and flags": {"email_prefix": "user9", "email_verified": False},
    "ranges that hardly overlap": {
        "email_prefix": "user9",
        "created_before": START + timedelta(days=30),
    },
    "two prefixes": {"email_prefix": "user", "username_prefix": "a"},
    "deleted too": {"deleted": Deleted.INCLUDE},
    "deleted only": {"deleted": Deleted.ONLY},
    "deleted and a flag": {"deleted": Deleted.ONLY, "email_verified": False},
    "deleted too, and a prefix": {"deleted": Deleted.INCLUDE, "email_prefix": "user12"},
    "deleted too, and inactive": {"deleted": Deleted.INCLUDE, "is_active": False},
}

ORDERS = [
    UserOrder(column, descending)
    for column in ("created_at", "updated_at", "email")
    for descending in (False, True)
]

PLACES = {
    "created_at": START + timedelta(days=35),
    "updated_at": START + timedelta(days=35),
    "email": "user5",
}


# Without the partitions that are still empty, which autovacuum leaves alone too.
FILLED = """
SELECT string_agg(relname, ', '), count(*) FILTER (WHERE relallvisible < relpages) FROM pg_class
WHERE relkind = 'r' AND relname ~ '^(users|sessions)' AND pg_relation_size(oid) > 1e6
"""


def vacuum(connection):
    """Vacuum until every page is known to be seen by all.

    An autovacuum of another table, at the same time, still sees what was there before.
    """
    for _ in range(100):
        tables, _ = connection.execute(FILLED).fetchone()
        connection.execute(f"VACUUM ANALYZE {tables}")
        if connection.execute(FILLED).fetchone()[1] == 0:
            return
        time.sleep(0.1)
    pytest.fail("pages are not seen by all")


@pytest.fixture(scope="module")
def crowded(postgres):
    """The URL of a database with a hundred thousand users."""
    name = f"crowded_{os.getpid()}"
    url = postgres.create(name, TEMPLATE)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(USERS)
        connection.execute(SESSIONS)
        vacuum(connection)
    yield url
    postgres.drop(name)


@pytest.fixture
async def database(settings, crowded):
    database = Database(create_engine(settings.with_database(crowded).database))
    yield database
    await database.close()


@pytest.fixture
def sent(database):
    """The statements that are sent, and their parameters."""
    caught = []

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def catch(_connection, _cursor, statement, parameters, *_):
        caught.append((statement, parameters))

    return caught


def plans(url, sent, options=""):
    """Run each statement by its custom and its generic plan; yield the nodes of the plans."""
    with psycopg.connect(url, options=options) as connection:
        for statement, parameters in sent:
            if statement.startswith("EXPLAIN"):
                continue
            names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
            numbers = {name: f"${at}" for at, name in enumerate(names, 1)}
            for name in names:
                if isinstance(
                    parameters[name], timedelta
                ):  # the driver sends the type to the server
                    numbers[name] += "::interval"
            connection.execute(f"PREPARE caught AS {statement % numbers}")
            values = sql.SQL(", ").join(sql.Literal(parameters[name]) for name in names)
            run = sql.SQL("({})").format(values) if names else sql.SQL("")
            for mode in ("force_generic_plan", "force_custom_plan"):
                connection.execute(f"SET plan_cache_mode = {mode}")
                found = connection.execute(
                    sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE caught {}").format(
                        run
                    )
                ).fetchone()
                yield from nodes(found[0][0]["Plan"])
            connection.execute("DEALLOCATE caught")


def nodes(plan):
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def problems(url, sent, *, most, options=""):
    """Return the nodes that read a whole table, or sort or pass more than `most` rows."""
    assert sent
    found = []
    for node in plans(url, sent, options):
        kind = node["Node Type"]
        passed = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        if kind == "Seq Scan" or (kind != "Limit" and passed > most):
            found.append((kind, node.get("Index Name"), passed))
    return found


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(map(str, order)))
@pytest.mark.parametrize("name", FILTERS)
async def test_users_page_reads_few_rows_along_an_index(database, crowded, sent, name, order):
    matching = UserFilter(**FILTERS[name])
    prefix = matching.email_prefix if order.column == "email" else None
    place = PLACES[order.column] if prefix is None else f"{prefix}5"
    async with database.read() as db:
        for after in (None, KeysetCursor(place, BUSY_USER)):
            await db.user_lists.page(matching, order, size=SIZE, after=after)

    assert problems(crowded, sent, most=2 * MAX_SORTED_ROWS) == []


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(map(str, order)))
@pytest.mark.parametrize(
    "name", ["everybody", "unverified", "inactive", "unverified and active", "deleted only"]
)
async def test_users_page_without_range_reads_its_own_rows_only(
    database, crowded, sent, name, order
):
    async with database.read() as db:
        await db.user_lists.page(UserFilter(**FILTERS[name]), order, size=SIZE)

    # In the order of updates, all users are merged from four combinations of flags.
    assert problems(crowded, sent, most=4 * SIZE) == []


@pytest.mark.parametrize("deleted", Deleted)
async def test_user_is_found_by_an_index(database, crowded, sent, deleted):
    async with database.read() as db:
        user = (await db.user_lists.page(UserFilter(deleted=deleted), UserOrder(), size=1)).rows[0]
        sent.clear()
        await db.users.get(user.id, deleted=deleted)
        await db.users.get_by_email(user.email, deleted=deleted)
        await db.users.get_by_username(user.username, deleted=deleted)

    assert len(sent) == 3
    assert problems(crowded, sent, most=1) == []


async def test_sessions_page_of_busy_user_reads_along_an_index(database, crowded, sent):
    async with database.read() as db:
        for ended in (False, True):
            page = await db.sessions.page(BUSY_USER, include_ended=ended, size=SIZE)
            place = KeysetCursor(page[-1].created_at, page[-1].id)
            await db.sessions.page(BUSY_USER, include_ended=ended, size=SIZE, after=place)
        await db.sessions.recent(BUSY_USER, limit=10)

    assert len(sent) == 5
    assert problems(crowded, sent, most=100) == []


@pytest.mark.parametrize("statement", [sessions_of_one_day, sessions_of_days])
async def test_sessions_of_tokens_are_found_by_indexes(database, crowded, sent, statement):
    digests = [token_digest(f"tms_{number}") for number in range(30)]
    bounds = {"day_start": datetime.now(UTC), "day_end": datetime.now(UTC) + timedelta(days=7)}
    periods = {"starts": [bounds["day_start"]] * 30, "ends": [bounds["day_end"]] * 30}
    values = {"digests": digests, "idle_limit": timedelta(hours=1), **bounds, **periods}
    async with database.read() as db:
        await db.connection.execute(statement, values)

    assert len(sent) == 1
    assert problems(crowded, sent, most=30, options=INDEX_PLAN_OPTIONS) == []
    # A filter would make the statement's time grow with the square of its digests.
    read = plans(crowded, sent, INDEX_PLAN_OPTIONS)
    assert not [node for node in read if "digest" in node.get("Filter", "")]


async def test_sweep_reads_its_batch_only(database, crowded, sent):
    async with database.dry_run() as tx:
        assert await tx.sweeps.try_lock()
        for kind in (ExpiredRows.EXPIRED_SESSIONS, ExpiredRows.ENDED_SESSIONS):
            assert await tx.sweeps.purge(kind, timedelta(0), limit=100) == 100

    assert problems(crowded, sent, most=200) == []


async def test_sweep_reads_its_batch_of_deleted_users_only(database, crowded, sent):
    async with database.dry_run() as tx:
        assert await tx.sweeps.try_lock()
        user_ids = await tx.sweeps.lock_deleted_users(timedelta(0), limit=100)
        assert len(user_ids) == 100
        assert await tx.sweeps.purge_sessions_of(user_ids, limit=1000)

    assert problems(crowded, sent, most=1000) == []


async def test_statements_of_one_user_read_live_days_only(database, crowded, sent):
    async with database.dry_run() as tx:
        await tx.sessions.revoke_excess(BUSY_USER, 5)
        await tx.sessions.touch({BUSY_USER: datetime.now(UTC) + timedelta(days=7)})
        await tx.sessions.recent(BUSY_USER, limit=10)

    assert len(sent) == 3
    assert problems(crowded, sent, most=200) == []
    assert "sessions_first" not in {node.get("Relation Name") for node in plans(crowded, sent)}


@pytest.mark.parametrize("name", ["unverified", "inactive", "deleted only"])
async def test_users_are_counted_in_an_index(database, crowded, sent, name):
    async with database.read() as db:
        await db.user_lists.count(UserFilter(**FILTERS[name]))

    scans = {node["Node Type"] for node in plans(crowded, sent) if "Scan" in node["Node Type"]}
    assert scans - {"Subquery Scan"} == {"Index Only Scan"}


@pytest.mark.parametrize("name", FILTERS)
async def test_users_count_reads_no_more_than_its_bounds(
    database, crowded, sent, monkeypatch, name
):
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ENTRIES", 3000)
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ROWS", 1000)
    async with database.read() as db:
        counted = await db.user_lists.count(UserFilter(**FILTERS[name]))

    assert problems(crowded, sent, most=3001) == []
    assert counted.is_estimate is any(it.startswith("EXPLAIN") for it, _ in sent)


async def test_users_stats_read_a_bounded_number_of_rows(database, crowded, sent, monkeypatch):
    monkeypatch.setattr(user_counts, "MAX_COUNTED_ENTRIES", 3000)
    async with database.read() as db:
        for conditions in FILTERS.values():
            await db.user_lists.stats(UserFilter(**conditions))

    assert problems(crowded, sent, most=2 * MAX_SORTED_ROWS + 1) == []
