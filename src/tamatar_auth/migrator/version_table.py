"""The table that holds our revision, and its move from the table that alembic uses by default.

Several programs may share a database, and alembic's default table belongs to one of them. It is
ours if it holds one of our revisions and stands beside our first tables. Then it is renamed, and a
view of the former name remains for replicas and migrators of releases before the move.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from tamatar_auth.migrator.revisions import revisions
from tamatar_auth.storage.tables import VERSION_TABLE, metadata

FORMER_TABLE = "alembic_version"

_FIRST_TABLES = ("users", "user_profiles", "sessions")

# No reference to a table of which this may be the first use: it may not exist.
_MAY_BE_OURS = f"""
    to_regclass('{VERSION_TABLE}') IS NULL AND (
        SELECT count(*) = {len(_FIRST_TABLES)}
        FROM pg_class former JOIN pg_attribute ON attrelid = former.oid
        JOIN pg_class ours ON ours.relnamespace = former.relnamespace
        WHERE former.oid = to_regclass('{FORMER_TABLE}') AND former.relkind = 'r'
          AND attname = 'version_num' AND has_table_privilege(former.oid, 'SELECT')
          AND ours.relkind = 'r' AND ours.relname IN {_FIRST_TABLES}
    )"""  # noqa: S608 - constants only

_MISSING = text(
    "SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NULL"
)


def move_statement() -> str:
    """Return the statement that moves our revision to our table, if it is still in alembic's."""
    return f"""DO $move$
DECLARE
    place text;
    given record;
BEGIN
    IF {_MAY_BE_OURS} THEN
        IF {_is_ours()} THEN
            SELECT relnamespace::regnamespace::text INTO place
            FROM pg_class WHERE oid = to_regclass('{FORMER_TABLE}');
            EXECUTE format('ALTER TABLE %s.{FORMER_TABLE} RENAME TO {VERSION_TABLE}', place);
            EXECUTE format(
                'CREATE VIEW %1$s.{FORMER_TABLE} AS SELECT version_num FROM %1$s.{VERSION_TABLE}',
                place
            );
            FOR given IN
                SELECT privilege_type AS privilege,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
                FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass('{VERSION_TABLE}')
                  AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
            LOOP
                EXECUTE format(
                    'GRANT %s ON %s.{FORMER_TABLE} TO %s', given.privilege, place, given.role
                );
            END LOOP;
            RAISE INFO 'The revision moved from {FORMER_TABLE} to {VERSION_TABLE}.';
        END IF;
    END IF;
END $move$"""  # noqa: S608 - constants only


def find_version_table(connection: Connection) -> str:
    """Return the table that holds our revision, or will hold it, at this moment."""
    conditions = (_MAY_BE_OURS, _is_ours())
    is_former = all(connection.execute(text(f"SELECT {each}")).scalar_one() for each in conditions)
    return FORMER_TABLE if is_former else VERSION_TABLE


def missing_tables(connection: Connection) -> Sequence[str]:
    """Return the tables of the code that the database does not have."""
    names = {"names": list(metadata.tables)}
    return connection.execute(_MISSING, names).scalars().all()


def _is_ours() -> str:
    known = ", ".join(f"'{revision}'" for revision in revisions())
    return f"(SELECT count(*) = 1 AND bool_and(version_num IN ({known})) FROM {FORMER_TABLE})"  # noqa: S608
