"""Users whose names, times and flags are as unevenly spread as real ones, for `make bench SCALE=`.

A tenth was imported at one moment and is far from everything else in the order of creation. The
newest twentieth is unverified. Few first names are frequent, and many are rare.
"""

import itertools
import threading
from collections.abc import Callable, Sequence

import psycopg

BATCHES = 20
"""INSERTs, each of which reports its progress."""

FIRST_NAMES = (  # noqa: SIM905 - the formatter would give each a line
    "maria james anna john mohammed wei robert michael david jose li elena sofia daniel thomas ivan"
    " olga peter lucas emma noah liam mia ben ali fatima yuki hana omar sara nina leo max paul jan"
    " eva kim lee ines hugo carla diego pablo rosa lena felix otto greta ida axel zoe yara zane"
).split()
LAST_NAMES = (  # noqa: SIM905
    "smith garcia mueller wang kim patel nguyen silva khan brown jones lopez martin bernard rossi"
    " novak kowalski ivanov petrov sato tanaka suzuki chen liu yang zhao wu zhou xu sun ma zhu hu"
).split()

_USERS = """
INSERT INTO users (
    id, email, username, first_name, last_name, full_name, password_hash, email_verified,
    is_active, created_at, updated_at, deleted_at, request_id
)
SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    CASE WHEN n < %(imported)s THEN 'legacy' || n || '@import.example'
        ELSE first || '.' || last || n || '@example.com' END,
    CASE WHEN has_name < 0.6 THEN
        CASE WHEN n < %(imported)s THEN 'old_' || n ELSE first || '_' || n END END,
    initcap(first), initcap(last), initcap(first) || ' ' || initcap(last), %(hash)s,
    n <= %(users)s * 0.95 AND verified > 0.01, active > 0.01 AND live > 0.02,
    created, created + (now() - created) * age ^ 3,
    CASE WHEN live <= 0.02 THEN now() - interval '1 day' * live * 50000 END,
    CASE WHEN n >= %(imported)s THEN gen_random_uuid() END
FROM (
    SELECT n, random() AS has_name, random() AS verified, random() AS active, random() AS live,
        random() AS age,
        (%(firsts)s::text[])[1 + floor(cardinality(%(firsts)s) * random() ^ 2)::int] AS first,
        (%(lasts)s::text[])[1 + floor(cardinality(%(lasts)s) * random() ^ 2)::int] AS last,
        now() - interval '5 years' + interval '5 years'
            * CASE WHEN n < %(imported)s THEN 0 ELSE n::float8 / %(users)s END AS created
    FROM generate_series(%(start)s::int, %(stop)s::int - 1) AS n
) AS drawn
"""

_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = current_schema() AND tablename = 'users' AND indexname <> 'pk_users'
ORDER BY indexname
"""


def load_listed_users(url: str, users: int, report_progress: Callable[[str], None]) -> None:
    """Fill an empty table of users; its indexes are built afterwards, two at a time."""
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(_INDEXES).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        connection.execute("ALTER TABLE users DISABLE TRIGGER USER")
        _insert(connection, users, report_progress)
        connection.execute("ALTER TABLE users ENABLE TRIGGER USER")
        parts = [indexes[::2], indexes[1::2]]
        builders = [
            threading.Thread(target=_build, args=(url, part, report_progress)) for part in parts
        ]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join()
        report_progress("analysing them")
        connection.execute("VACUUM ANALYZE users")
        connection.execute("CHECKPOINT")


def _insert(
    connection: psycopg.Connection[tuple[object, ...]],
    users: int,
    report_progress: Callable[[str], None],
) -> None:
    values = {"users": users, "imported": users // 10, "hash": "x" * 80}
    names = {"firsts": FIRST_NAMES, "lasts": LAST_NAMES}
    bounds = [users * batch // BATCHES for batch in range(BATCHES + 1)]
    for start, stop in itertools.pairwise(bounds):
        connection.execute(_USERS, {**values, **names, "start": start, "stop": stop})
        report_progress(f"loaded {stop:,} of {users:,} users")


def _build(
    url: str, indexes: Sequence[tuple[str, str]], report_progress: Callable[[str], None]
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, definition in indexes:
            connection.execute(definition.encode())
            report_progress(f"built {name}")
