"""Sweepers as processes: one is killed in the middle, others come beside it and after it."""

import contextlib
import subprocess

import psycopg
import pytest

from tests.support.commands import COMMAND, QUICK, environment, tamatar
from tests.support.waiting import until

EXPIRED, LIVE, BATCH = 100, 20, 10

FILL = """
    WITH somebody AS (
        INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ada@example.com') RETURNING id
    )
    INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)
    SELECT gen_random_uuid(), somebody.id, sha256(n::text::bytea), now() - interval '9 days',
           CASE WHEN n > %(expired)s THEN now() + interval '1 hour'
                ELSE now() - make_interval(mins => 1000 - n) END
    FROM somebody, generate_series(1, %(expired)s + %(live)s) AS n
"""

# Whoever removes the row that expired as the 35th waits, in the middle of the fourth batch.
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
        "TAMATAR_SWEEP_BATCH_SIZE": str(BATCH),
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
    """How many sessions have expired, and how many there are."""
    return connection.execute(LEFT).fetchone()


@contextlib.contextmanager
def sweeping(folder, given):
    """Start a sweeper; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [COMMAND, "sweep"],
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


def test_what_a_killed_sweeper_had_not_committed_is_left_and_removed_by_the_next(
    connection, settings_of_sweepers, tmp_path
):
    connection.execute("SELECT pg_advisory_lock(35)")
    with sweeping(tmp_path, settings_of_sweepers):
        until(lambda: connection.execute(WAITING).fetchone() == (1,))
    # The process is dead, and PostgreSQL still works for it: nobody else gets in its way.
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


def test_of_two_sweepers_at_once_one_yields_and_the_other_removes_all(
    connection, settings_of_sweepers, tmp_path
):
    connection.execute("SELECT pg_advisory_lock(35)")
    with contextlib.ExitStack() as stack:
        sweepers = [stack.enter_context(sweeping(tmp_path, settings_of_sweepers)) for _ in range(2)]
        until(lambda: connection.execute(WAITING).fetchone() == (1,))
        # The other one has yielded, or comes when it may: either way it waits for nobody.
        ended = until(lambda: [it for it in sweepers if it.poll() is not None])
        assert [it.returncode for it in ended] == [0]
        connection.execute("SELECT pg_advisory_unlock(35)")
        assert [it.wait(60) for it in sweepers] == [0, 0]

    assert left(connection) == (0, LIVE)
