"""The proof that a server is the primary: an acknowledged time that is recent."""

from datetime import timedelta

import psycopg
import pytest

from tamatar_auth.storage.acknowledgement import is_confirmed, is_due
from tests.support.synchronous_postgres import synchronous_postgres

WITHIN = timedelta(minutes=1)


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory):
    with synchronous_postgres(tmp_path_factory.mktemp("synchronous")) as url:
        yield url


@pytest.fixture
def connection(synchronous):
    with psycopg.connect(synchronous, options="-c synchronous_commit=local") as connection:
        yield connection
        connection.rollback()


def value(connection, expression):
    (found,) = connection.execute(f"SELECT {expression}").fetchone()
    return found


@pytest.mark.parametrize(
    ("age", "confirmed"),
    [("-1 hour", False), ("-50 s", True), ("50 s", True), ("70 s", False)],
)
def test_time_within_limit_confirms(connection, age, confirmed):
    change = "UPDATE primary_heartbeat SET acknowledged_at = now() - %s::interval"
    connection.execute(change, [age])

    assert value(connection, is_confirmed(WITHIN)) is confirmed


def test_new_or_missing_row_confirms_nothing(connection):
    assert value(connection, is_confirmed(WITHIN)) is False
    connection.execute("DELETE FROM primary_heartbeat")
    assert value(connection, is_confirmed(WITHIN)) is False


def test_switched_off_check_confirms_all(connection):
    assert value(connection, is_confirmed(timedelta(0))) is True


def test_server_without_standbys_is_confirmed(migrated_database):
    with psycopg.connect(migrated_database) as connection:
        assert value(connection, is_confirmed(WITHIN)) is True


@pytest.mark.parametrize(
    ("acknowledged", "sent", "due"),
    [
        ("19 s", "19 s", False),
        ("21 s", "21 s", True),
        ("21 s", "1 s", False),
        ("-1 h", "-1 h", True),
    ],
)
def test_row_is_due_after_a_third_unless_just_sent(connection, acknowledged, sent, due):
    connection.execute(
        "UPDATE primary_heartbeat SET acknowledged_at = now() - %s::interval,"
        " sent_at = now() - %s::interval",
        [acknowledged, sent],
    )
    assert value(connection, f"bool_or({is_due(WITHIN)}) FROM primary_heartbeat") is due


def test_newest_time_is_found_by_index(connection):
    """However many old versions of the row a long transaction keeps."""
    connection.execute("SET enable_seqscan = off")
    plan = connection.execute(f"EXPLAIN SELECT {is_confirmed(WITHIN)}").fetchall()
    assert "Backward using idx_primary_heartbeat_acknowledged" in str(plan)
