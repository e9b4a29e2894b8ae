"""Filling a database with users and sessions, inside PostgreSQL."""

from collections.abc import Callable

import psycopg

from benchmarks.calls import DAYS, FIRST_CREATED

# The same ids and tokens as in calls.py.
_ID = "('01900000-0000-7000-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
_SECRET = "sha256(convert_to('session ' || n, 'UTF8'))"
_DAY = f"(date_trunc('day', now(), 'UTC') + interval '1 day' * (1 + n %% {DAYS}))"
_END = f"int2send((({_DAY} AT TIME ZONE 'UTC')::date - '2000-01-01'::date + 1)::int2)"
_HEADER = rf"'\x01'::bytea || {_END} || substr({_SECRET}, 1, 2)"
_BASE64 = f"translate(encode({_HEADER} || {_SECRET}, 'base64'), '+/', '-_')"
_TOKEN = f"'tms_' || rtrim({_BASE64}, '=')"

_USERS = f"""
INSERT INTO users
    (id, email, username, first_name, last_name, password_hash, email_verified, created_at)
SELECT {_ID.format("n")}, 'user' || n || '@example.com', 'user' || n, 'Ada', 'Lovelace',
    %(hash)s, true, to_timestamp({FIRST_CREATED} + n)
FROM generate_series(0, %(users)s - 1) AS n
"""  # noqa: S608 - constants

_PROFILES = "INSERT INTO user_profiles (user_id, display_name) SELECT id, 'Ada' FROM users"

_SESSIONS = f"""
INSERT INTO sessions (id, user_id, token_digest, expires_at, user_agent, ip_address)
SELECT {_ID.format("n")}, {_ID.format("n %% %(users)s")}, sha256(convert_to({_TOKEN}, 'UTF8')),
    {_DAY} + interval '12 hours', 'Mozilla/5.0 (X11; Linux x86_64)', '192.0.2.1'
FROM generate_series(0, %(sessions)s - 1) AS n
"""  # noqa: S608 - constants

_EXPIRED = """
INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)
SELECT gen_random_uuid(), id, sha256(uuid_send(gen_random_uuid())),
    now() - interval '8 days', now() - interval '1 day'
FROM generate_series(1, %(rounds)s), LATERAL (SELECT id FROM users LIMIT %(each)s) AS chosen
"""


def load_users(
    url: str,
    *,
    users: int,
    sessions: int,
    password_hash: str,
    report_progress: Callable[[str], None],
) -> None:
    """Fill a database. The first sessions belong to the users with the same numbers."""
    with psycopg.connect(url, autocommit=True) as connection:
        values = {"users": users, "sessions": sessions, "hash": password_hash}
        steps = {f"{users:,} users": _USERS, "their profiles": _PROFILES}
        for label, statement in (steps | {f"{sessions:,} sessions": _SESSIONS}).items():
            report_progress(f"loading {label}")
            connection.execute(statement, values if "%(" in statement else None)
    report_progress("analysing them")
    vacuum(url)


def add_expired(url: str, count: int, users: int) -> None:
    """Add expired sessions."""
    each = min(count, users)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_EXPIRED, {"rounds": count // each, "each": each})
    vacuum(url)


def vacuum(url: str) -> None:
    """Do now what autovacuum would do during the measurement."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
