"""psycopg connections that survive cancelled calls and silent servers."""
