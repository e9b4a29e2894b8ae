"""The indexes that docs/operate/upgrading.md advises serve the release before."""

import psycopg

from tests.support.commands import ROOT

OLD_STATEMENTS = {
    "upgrade_live_created": (
        "SELECT id FROM users WHERE deleted_at IS NULL ORDER BY deleted_at, created_at, id LIMIT 51"
    ),
    "upgrade_live_updated": (
        "SELECT id FROM users WHERE deleted_at IS NULL ORDER BY deleted_at, updated_at, id LIMIT 51"
    ),
    "upgrade_email": (
        "SELECT 1 FROM users WHERE email >= 'a' AND email < 'b' ORDER BY email OFFSET 5000 LIMIT 1"
    ),
    "upgrade_username": "SELECT id FROM users WHERE username = 'ada'",
}


def test_advised_indexes_serve_the_release_before(migrated_database):
    page = (ROOT / "docs/operate/upgrading.md").read_text()
    (block,) = page.split("```sql\n")[1:]
    with psycopg.connect(migrated_database, autocommit=True) as connection:
        for statement in block.partition("```")[0].strip().split("\n"):
            connection.execute(statement.encode())
        for plan_option in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            connection.execute(f"SET {plan_option} = off".encode())
        for index, statement in OLD_STATEMENTS.items():
            plan = connection.execute(f"EXPLAIN {statement}".encode()).fetchall()
            assert index in str(plan)
