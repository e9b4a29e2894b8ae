"""Errors of a real PostgreSQL, and the failures that callers get for them."""

import asyncio
import contextlib
import os
import signal
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import exc, make_url, text, update

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.errors import ServerBusy
from tamatar_auth.errors.factors import FactorNotFound, PasskeyTaken
from tamatar_auth.errors.storage import (
    StorageTimedOut,
    StorageUnavailable,
    StoredAlready,
    TransactionConflict,
    ValueRefused,
)
from tamatar_auth.errors.users import EmailTaken, InvalidCredentials, UsernameTaken, UserNotFound
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.engine import create_engine
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.user_tokens import TokenOwner, TokenPurpose
from tamatar_auth.storage.sqlstates import (
    CONSTRAINTS,
    SQLSTATE_CLASSES,
    SQLSTATES,
    constraint,
    sqlstate,
    to_failure,
)
from tamatar_auth.storage.tables import users
from tests.support.rows import new_user
from tests.support.settings import changed
from tests.support.waiting import eventually

LIFETIME = timedelta(days=7)
HASTE = timedelta(milliseconds=20)


@pytest.fixture
async def user(database):
    async with database.transaction() as tx:
        return await tx.users.add(new_user(email="ada@example.com", username="ada"))


async def provoked(work):
    """Return the error that a coroutine raises."""
    with pytest.raises((exc.SQLAlchemyError, psycopg.Error)) as raised:
        await work
    return raised.value


async def run(database, *statements):
    """Run statements in one transaction."""
    async with database.transaction() as tx:
        for statement in statements:
            await tx.connection.execute(text(statement))


async def add(database, **given):
    async with database.transaction() as tx:
        await tx.users.add(new_user(**given))


async def same_email(database, user):
    await add(database, email=user.email)


async def same_username(database, user):
    await add(database, username=user.username)


async def same_request(database, _user):
    key = uuid4()
    await add(database, request_id=key)
    await add(database, request_id=key)


async def profile_without_user(database, _user):
    async with database.transaction() as tx:
        await tx.profiles.add(uuid4(), ProfileRow())


async def user_token_without_user(database, _user):
    owner = TokenOwner(uuid4(), "unknown@example.com")
    async with database.transaction() as tx:
        await tx.user_tokens.issue(TokenPurpose.PASSWORD_RESET, owner, b"d" * 32, LIFETIME)


async def attempt_without_user(database, _user):
    await run(
        database,
        "INSERT INTO password_attempts (account, user_id, failures, blocked_until)"
        " VALUES (sha256('a'), gen_random_uuid(), 1, now())",
    )


NEW_FACTOR = "INSERT INTO factors (id, user_id, kind, confirmed_at, key_id) VALUES"
NEW_APP = """
    INSERT INTO factors (id, user_id, kind, key_id, encrypted_secret)
    SELECT gen_random_uuid(), id, 'totp', 'k', 's' FROM users
"""
NEW_PASSKEY = """
    INSERT INTO factors (id, user_id, kind, confirmed_at, credential_id, public_key)
    SELECT gen_random_uuid(), id, 'passkey', now(), 'c', 'p' FROM users
"""
NEW_CODES = """
    INSERT INTO factors (id, user_id, kind, confirmed_at, key_id)
    SELECT gen_random_uuid(), id, 'recovery_codes', now(), 'k' FROM users
"""


async def factor_without_user(database, _user):
    values = "(gen_random_uuid(), gen_random_uuid(), 'recovery_codes', now(), 'k')"
    await run(database, f"{NEW_FACTOR} {values}")


async def challenge_without_user(database, _user):
    await run(
        database,
        "INSERT INTO challenges (token_digest, purpose, user_id, expires_at)"
        " VALUES (sha256('a'), 'sign_in', gen_random_uuid(), now())",
    )


async def code_without_factor(database, _user):
    await run(database, "INSERT INTO recovery_codes VALUES (gen_random_uuid(), sha256('a'))")


async def same_passkey(database, _user):
    await run(database, NEW_PASSKEY, NEW_PASSKEY)


async def second_set_of_codes(database, _user):
    await run(database, NEW_CODES, NEW_CODES)


async def second_unconfirmed_app(database, _user):
    await run(database, NEW_APP, NEW_APP)


VIOLATIONS = {
    "uq_users_email_live": (same_email, EmailTaken),
    "uq_users_username_live": (same_username, UsernameTaken),
    "uq_users_request_id": (same_request, TransactionConflict),
    "fk_user_profiles_user_id_users": (profile_without_user, UserNotFound),
    "fk_user_tokens_user_id_users": (user_token_without_user, UserNotFound),
    "fk_password_attempts_user_id_users": (attempt_without_user, InvalidCredentials),
    "fk_factors_user_id_users": (factor_without_user, UserNotFound),
    "fk_challenges_user_id_users": (challenge_without_user, UserNotFound),
    "fk_recovery_codes_factor_id_factors": (code_without_factor, FactorNotFound),
    "uq_factors_credential_id": (same_passkey, PasskeyTaken),
    "uq_factors_recovery_codes": (second_set_of_codes, TransactionConflict),
    "uq_factors_unconfirmed": (second_unconfirmed_app, TransactionConflict),
}


async def missing_value(database, user):
    await add(database, email=None)


async def broken_check(database, user):
    await add(database, email="")


async def unknown_foreign_key(database, user):
    await run(
        database,
        "CREATE TEMP TABLE parents (id int PRIMARY KEY) ON COMMIT DROP",
        "CREATE TEMP TABLE children (id int REFERENCES parents) ON COMMIT DROP",
        "INSERT INTO children VALUES (1)",
    )


async def serialization(database, user):
    change = update(users).where(users.c.id == user.id).values(first_name="Ada")
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as late:
        await late.execute(text("SELECT 1 FROM users"))
        async with database.transaction() as tx:
            await tx.connection.execute(change)
        await late.execute(change)


async def deadlock(database, user):
    async with database.transaction() as tx:
        other = await tx.users.add(new_user())

    async def cross(first, second, met):
        async with database.transaction() as tx:
            await tx.connection.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            for key in (first, second):
                await tx.users.update(key, {"first_name": "Ada"})
                await met.wait()

    met = asyncio.Barrier(2)
    keys = (user.id, other.id)
    ends = await asyncio.gather(
        cross(*keys, _Once(met)), cross(*reversed(keys), _Once(met)), return_exceptions=True
    )
    raise next(end for end in ends if end)


class _Once:
    """Waits at a barrier the first time only."""

    def __init__(self, barrier):
        self._barrier = barrier

    async def wait(self):
        barrier, self._barrier = self._barrier, None
        if barrier:
            await barrier.wait()


async def taken_lock(database, user):
    async with database.transaction() as tx:
        await tx.users.update(user.id, {"first_name": "Ada"})
        await run(database, "SET LOCAL lock_timeout = '10ms'", "DELETE FROM users")


async def cancelled(database, user):
    async with database.transaction() as tx:
        sleeping = asyncio.ensure_future(tx.connection.execute(text("SELECT pg_sleep(60)")))
        cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
        sleeps = "WHERE datname = current_database() AND wait_event = 'PgSleep'"
        await eventually(lambda: ask(database, f"{cancel} {sleeps}"))
        await sleeping


async def read_only(database, user):
    async with database.snapshot() as db:
        await db.users.update(user.id, {"first_name": "Ada"})


async def pid_of(scope):
    return (await scope.connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()


async def has_gone(database, pid):
    return await ask(
        database, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = :pid", pid=pid
    )


async def ask(database, query, **values):
    async with database.read() as db:
        return (await db.connection.execute(text(query), values)).scalar_one()


async def idle_in_transaction(database, user):
    async with database.transaction() as tx:
        pid = await pid_of(tx)
        await tx.connection.execute(text("SET idle_in_transaction_session_timeout = '10ms'"))
        await eventually(lambda: has_gone(database, pid))
        await tx.users.get(user.id)


async def idle_session(database, user):
    async with database.read() as db:
        pid = await pid_of(db)
        await db.connection.execute(text("SET idle_session_timeout = '10ms'"))
        await eventually(lambda: has_gone(database, pid))
        await db.users.get(user.id)


async def terminated(database, user):
    async with database.transaction() as tx:
        pid = await pid_of(tx)
        await run(database, f"SELECT pg_terminate_backend({pid}, 5000)")
        await tx.users.get(user.id)


PROVOCATIONS = {
    "23502": missing_value,
    "23514": broken_check,
    "23503": unknown_foreign_key,
    "40001": serialization,
    "40P01": deadlock,
    "55P03": taken_lock,
    "57014": cancelled,
    "25006": read_only,
    "25P03": idle_in_transaction,
    "57P01": terminated,
    "57P05": idle_session,
}


UNLISTED = ["0A000", "25P02", "28000", "42501", "42P01", "54001", "58030", "P0001", "XX000"]
"""Faults of the service or of the machine: a retry does not help."""


def raising(state):
    return f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"


class TestConstraints:
    """Violated constraints."""

    @pytest.mark.parametrize("constraint", CONSTRAINTS)
    async def test_violated_constraint_maps_to_its_failure(self, database, user, constraint):
        violate, expected = VIOLATIONS[constraint]

        error = await provoked(violate(database, user))

        assert error.orig.diag.constraint_name == constraint
        assert type(to_failure(error)) is expected

    async def test_constraints_table_lists_every_constraint_of_schema(self, database):
        query = """
        SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indrelid
        WHERE indisunique AND NOT indisprimary AND indrelid::regclass::text NOT LIKE 'pg_%'
          AND NOT relispartition
        UNION
        SELECT conname FROM pg_constraint WHERE contype = 'f'
    """
        async with database.read() as db:
            real = set((await db.connection.execute(text(query))).scalars())

        # Two tokens of 256 random bits never collide: a collision is a fault.
        digests = {
            "uq_sessions_token_digest",
            "uq_sessions_previous_digest",
            "uq_user_tokens_token_digest",
        }
        assert set(CONSTRAINTS) == real - digests

    async def test_duplicate_primary_key_is_stored_already(self, database, user):
        error = await provoked(add(database, id=user.id))

        assert constraint(error) == "pk_users"
        assert type(to_failure(error)) is StoredAlready


class TestStates:
    """Errors with a SQLSTATE."""

    @pytest.mark.parametrize("state", PROVOCATIONS)
    async def test_provoked_fault_maps_to_failure_of_its_sqlstate(self, database, user, state):
        for _ in range(10):
            error = await provoked(PROVOCATIONS[state](database, user))
            # A connection that ends may be lost before libpq has read its last message.
            if sqlstate(error):
                break

        assert sqlstate(error) == state
        assert type(to_failure(error)) is SQLSTATES[state]
        assert database.pool.in_use == 0

    @pytest.mark.parametrize("url", ["", "?options=-c%20statement_timeout%3D20"])
    async def test_statement_timeout_maps_to_timed_out(self, settings, database_url, url):
        hasty = changed(settings.with_database(database_url + url), statement_timeout=HASTE)
        database = Database(create_engine(hasty.database))

        error = await provoked(run(database, "SELECT pg_sleep(60)"))

        assert sqlstate(error) == "57014"
        assert type(to_failure(error)) is StorageTimedOut
        await database.close()

    @pytest.mark.parametrize(
        "state", [*SQLSTATES, *(f"{family}000" for family in SQLSTATE_CLASSES), "53400"]
    )
    async def test_raised_sqlstate_maps_to_failure_of_table(self, database, state):
        error = await provoked(run(database, raising(state)))

        assert sqlstate(error) == state
        assert type(to_failure(error)) is (SQLSTATES.get(state) or SQLSTATE_CLASSES[state[:2]])

    @pytest.mark.parametrize("state", UNLISTED)
    async def test_unlisted_sqlstate_maps_to_no_failure(self, database, state):
        error = await provoked(run(database, raising(state)))

        assert to_failure(error) is None

    @pytest.mark.parametrize(
        "values",
        [
            {"email": "x" * 256},
            {"username": "x" * 31},
            {"first_name": "x" * 101},
            {"first_name": "a\0b"},
        ],
    )
    async def test_value_that_cannot_be_stored_is_refused(self, database, values):
        error = await provoked(add(database, **values))

        assert type(to_failure(error)) is ValueRefused

    @pytest.mark.parametrize(
        "statement",
        ["SELECT 1 / 0", "SELECT 'x'::int", "SELECT 2147483647 + 1", "SELECT 'x'::uuid"],
    )
    async def test_value_that_cannot_be_computed_is_refused(self, database, statement):
        error = await provoked(run(database, statement))

        assert type(to_failure(error)) is ValueRefused


@pytest.fixture
def own_postgres(tmp_path):
    """A server that a test may break."""
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as postgres:
        yield postgres


async def until_it_answers(database):
    async def answers():
        with contextlib.suppress(exc.DBAPIError):
            await run(database, "SELECT 1")
            return True
        return False

    await eventually(answers)


async def until_it_refuses(settings):
    """Connect again and again until connecting fails."""

    async def connects():
        database = Database(create_engine(settings.database))
        try:
            await run(database, "SELECT 1")
        finally:
            await database.close()

    await eventually(connects)


class TestConnections:
    """Errors without a SQLSTATE."""

    async def test_exhausted_pool_is_busy(self, database, settings):
        pool = Database(create_engine(settings.database, pool_size=1, pool_wait=0.01))
        await pool.fill_pool()
        async with pool.transaction():
            with pytest.raises(ServerBusy):
                await run(pool, "SELECT 1")

        await pool.close()

    async def test_server_that_answers_no_connection_is_unavailable(self, settings):
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
            url = f"postgresql://127.0.0.1:{silent.sockets[0].getsockname()[1]}/x"
            database = Database(create_engine(settings.with_database(url).database, pool_wait=0.1))
            with pytest.raises(StorageUnavailable):
                await run(database, "SELECT 1")

        await database.close()

    async def test_refused_connection_is_unavailable(self, settings):
        nowhere = Database(
            create_engine(settings.with_database("postgresql://127.0.0.1:1/x").database)
        )

        error = await provoked(run(nowhere, "SELECT 1"))

        assert type(to_failure(error)) is StorageUnavailable

    async def test_too_many_connections_are_unavailable(self, database, settings, database_url):
        await run(
            database,
            "DROP ROLE IF EXISTS crowded",
            "CREATE ROLE crowded LOGIN PASSWORD 'x' CONNECTION LIMIT 0",
        )
        url = make_url(database_url).set(username="crowded", password="x")
        crowded = Database(
            create_engine(
                settings.with_database(url.render_as_string(hide_password=False)).database
            )
        )

        error = await provoked(run(crowded, "SELECT 1"))
        await run(database, "DROP ROLE crowded")

        assert "too many connections" in str(error)
        assert type(to_failure(error)) is StorageUnavailable

    async def test_unresolvable_host_is_unavailable(self, settings):
        nowhere = Database(
            create_engine(settings.with_database("postgresql://no-such-host.invalid/x").database)
        )

        error = await provoked(run(nowhere, "SELECT 1"))

        assert type(to_failure(error)) is StorageUnavailable

    async def test_crashed_or_stopping_server_is_unavailable(
        self, settings, own_postgres, tmp_path
    ):
        mine = settings.with_database(own_postgres.url())
        own = Database(create_engine(mine.database))
        async with own.read() as db, own.read() as other:
            pid = text("SELECT pg_backend_pid()")
            os.kill((await other.connection.execute(pid)).scalar_one(), signal.SIGKILL)
            error = await provoked(db.connection.execute(text("SELECT pg_sleep(60)")))
            assert type(to_failure(error)) is StorageUnavailable  # 57P02, without a code from libpq

        await until_it_answers(own)
        async with own.read():
            (status,) = tmp_path.glob("*/data/postmaster.pid")
            os.kill(int(status.read_text().split()[0]), signal.SIGTERM)
            error = await provoked(until_it_refuses(mine))
            assert type(to_failure(error)) is StorageUnavailable  # 57P03, without a code from libpq
        await own.close()

    @pytest.mark.parametrize(
        "error",
        [ValueError("x"), KeyError("x"), psycopg.ProgrammingError("x"), psycopg.InterfaceError()],
    )
    def test_error_not_from_postgresql_maps_to_no_failure(self, error):
        assert to_failure(error) is None
        assert sqlstate(error) is None

    def test_broken_socket_is_unavailable(self):
        assert type(to_failure(ConnectionResetError())) is StorageUnavailable
