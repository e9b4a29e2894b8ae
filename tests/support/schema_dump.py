"""The schema of a database, as PostgreSQL describes it."""

import psycopg

from tamatar_auth.storage.tables import VERSION_TABLE

_SCHEMA = """
    SELECT c.relname, a.attname,
           format_type(a.atttypid, a.atttypmod) || coalesce(' ' || l.collname, '')
           || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default'
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(t.oid)
    FROM pg_constraint t JOIN pg_class c ON c.oid = conrelid
    WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND NOT relispartition
    UNION ALL
    SELECT tablename, indexname, indexdef
    FROM pg_indexes JOIN pg_class c ON c.oid = format('%I.%I', schemaname, tablename)::regclass
    WHERE schemaname = 'public' AND NOT relispartition
"""

_PROGRAMS = """
    SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
    WHERE NOT tgisinternal AND NOT relispartition
    UNION ALL
    SELECT '', proname, pg_get_functiondef(p.oid)
    FROM pg_proc p JOIN pg_language l ON l.oid = prolang
    WHERE pronamespace = 'public'::regnamespace AND lanname <> 'c'  -- not those of extensions
"""


def schema(url: str, *, programs: bool = True) -> set[tuple[str, str, str]]:
    """Return table, name and definition of everything in a database, as PostgreSQL describes it.

    Partitions are left out.

    Without `programs`, triggers and functions are left out.
    """
    query = f"{_SCHEMA} UNION ALL {_PROGRAMS}" if programs else _SCHEMA
    with psycopg.connect(url) as connection:
        rows = connection.execute(query.encode()).fetchall()
    return {(table, name, text) for table, name, text in rows if table != VERSION_TABLE}
