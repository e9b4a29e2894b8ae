"""Revision 0015, which adds how the users of sessions were authenticated."""

import threading
from datetime import UTC, datetime

import grpc
import psycopg
import pytest

from tamatar.auth.v1.session_pb2 import AssuranceLevel
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tests.support.calls import refresh, validate
from tests.support.rows import WEEK, new_token
from tests.support.schema_dump import schema

BEFORE = "0014"

# The statements of the release before.
OLD_USER = """
    INSERT INTO users (id, email, email_verified)
    VALUES (gen_random_uuid(), gen_random_uuid() || '@example.com', true) RETURNING id
"""
OLD_SESSION = """
    INSERT INTO sessions (id, user_id, token_digest, expires_at, user_agent, ip_address)
    VALUES (gen_random_uuid(), %s, %s, %s, 'curl/8', '2001:db8::1')
    RETURNING id, user_id, created_at, expires_at, last_activity_at, revoked_at, user_agent,
              host(ip_address) AS ip_address
"""
OLD_ROTATION = """
    WITH changed AS (
        UPDATE sessions SET token_digest = sha256(token_digest), rotation_nonce = token_digest,
            previous_digest = token_digest, rotated_at = now(), last_activity_at = now()
        WHERE token_digest = %s AND is_valid AND expires_at > now()
        RETURNING id, previous_digest, expires_at
    ), remembered AS (
        INSERT INTO replaced_tokens (token_digest, session_id, expires_at)
        SELECT previous_digest, id, expires_at FROM changed
    )
    SELECT id FROM changed
"""


@pytest.fixture
def old_database(migrated_database):
    """A database of the release before."""
    Migrations(migrated_database).downgrade(BEFORE)
    return migrated_database


def start(connection):
    """Start a session of a new user as the release before does, and return its token."""
    (user_id,) = connection.execute(OLD_USER).fetchone()
    expires_at = datetime.now(UTC) + WEEK
    token = new_token(user_id, expires_at)
    connection.execute(OLD_SESSION, [user_id, token.digest, expires_at])
    return token


def test_old_code_meets_no_error_during_both_moves(old_database):
    old, ended, failures = schema(old_database), threading.Event(), []

    def work():
        try:
            with psycopg.connect(old_database, autocommit=True) as connection:
                while not ended.is_set():
                    connection.execute(OLD_ROTATION, [start(connection).digest])
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        migrations = Migrations(old_database)
        migrations.upgrade()
        new = schema(old_database)
        migrations.downgrade(BEFORE)
        restored = schema(old_database)
        migrations.upgrade()
    finally:
        ended.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert (restored, schema(old_database)) == (old, new)


@pytest.mark.parametrize("is_written", ["before", "after"])
async def test_session_of_old_code_has_defaults(settings, old_database, is_written):
    with psycopg.connect(old_database, autocommit=True) as connection:
        if is_written == "after":
            Migrations(old_database).upgrade()
        token = start(connection)
    Migrations(old_database).upgrade()

    async with (
        run_service(settings.with_database(old_database)) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        sessions = SessionServiceStub(channel)
        for call in (validate, refresh):
            session = (await call(sessions, token.text)).session
            assert session.assurance_level == AssuranceLevel.ASSURANCE_LEVEL_AAL1
            assert session.authenticate_time == session.create_time
            assert session.authentication_methods == ["pwd"]
