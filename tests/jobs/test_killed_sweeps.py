"""Sweepers as processes: one is killed during a batch, others run beside and after it."""

import contextlib
import subprocess
import sys

import psycopg
import pytest

from tests.support.commands import QUICK, environment, tamatar
from tests.support.waiting import until

EXPIRED, LIVE, BATCH = 100, 20, 10

IN_SMALL_BATCHES = f"""
from tamatar_auth.__main__ import main
from tamatar_auth.jobs import sweep

sweep.BATCH_SIZE = {BATCH}
main()
"""

FILL = """
    WITH owner AS (
        INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com') RETURNING id
    )
    INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)
    SELECT gen_random_uuid(), owner.id, sha256(n::text::bytea), now() - interval '9 days',
           CASE WHEN n > %(expired)s THEN now() + interval '1 hour'
                -- Sessions that expired today are removed tomorrow.
                ELSE date_trunc('day', now(), 'UTC') - make_interval(mins => 1000 - n) END
    FROM owner, generate_series(1, %(expired)s + %(live)s) AS n
"""

# The transaction that removes the 35th row to expire waits, during the fourth batch.
GATE = """
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.token_digest = sha256('35'::bytea) THEN
            PERFORM pg_advisory_xact_lock(35);
        END IF;
        RETURN OLD;
    END
    $$;
    CREATE TRIGGER gate AFTER DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION gate()
"""

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'advisory' AND query LIKE 'WITH%'
"""

LEFT = "SELECT count(*) FILTER (WHERE expires_at <= now()), count(*) FROM sessions"


@pytest.fixture
def settings_of_sweepers(migrated_database):
    return QUICK | {
        "TAMATAR_DATABASE_URL": migrated_database,
        "TAMATAR_LOCK_TIMEOUT": "1m",
        "TAMATAR_STATEMENT_TIMEOUT": "1m",
    }


@pytest.fixture
def connection(migrated_database):
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        connection.execute(FILL, {"expired": EXPIRED, "live": LIVE})
        connection.execute(GATE)
        yield connection


def left(connection):
    """Return the number of expired sessions, and of all sessions."""
    return connection.execute(LEFT).fetchone()


@contextlib.contextmanager
def sweeping(folder, given):
    """Start a sweeper; kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", IN_SMALL_BATCHES, "sweep"],
        cwd=folder,
        env=environment(given),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_killed_sweeper_leaves_uncommitted_rows_to_the_next(
    connection, settings_of_sweepers, tmp_path
):
    connection.execute("SELECT pg_advisory_lock(35)")
    with sweeping(tmp_path, settings_of_sweepers):
        until(lambda: connection.execute(WAITING).fetchone() == (1,))
    # The process is dead, but its backend goes on: other sweepers yield.
    assert left(connection) == (70, 70 + LIVE)
    said = tamatar("sweep", cwd=tmp_path, **settings_of_sweepers)
    assert "another process is sweeping" in said.stdout + said.stderr
    assert left(connection) == (70, 70 + LIVE)

    connection.execute("SELECT pg_advisory_unlock(35)")

    until(lambda: connection.execute(WAITING).fetchone() == (0,))
    until(lambda: sweep_all(tmp_path, settings_of_sweepers, connection) == (0, LIVE))


def sweep_all(folder, given, connection):
    tamatar("sweep", cwd=folder, **given)
    return left(connection)


def test_two_sweepers_at_once_one_yields(connection, settings_of_sweepers, tmp_path):
    connection.execute("SELECT pg_advisory_lock(35)")
    with contextlib.ExitStack() as stack:
        sweepers = [stack.enter_context(sweeping(tmp_path, settings_of_sweepers)) for _ in range(2)]
        until(lambda: connection.execute(WAITING).fetchone() == (1,))
        # The other sweeper has yielded, or starts later; it never waits.
        ended = until(lambda: [it for it in sweepers if it.poll() is not None])
        assert [it.returncode for it in ended] == [0]
        connection.execute("SELECT pg_advisory_unlock(35)")
        assert [it.wait(60) for it in sweepers] == [0, 0]

    assert left(connection) == (0, LIVE)
