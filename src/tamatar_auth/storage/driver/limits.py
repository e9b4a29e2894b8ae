"""Limits of the connections to PostgreSQL that no setting changes.

Parameters in the URL of the database win over those that libpq knows: `application_name`,
`connect_timeout`, `tcp_user_timeout`, and `options` for PostgreSQL's own settings.
"""

APPLICATION_NAME = "tamatar-auth"
"""The name of the service in pg_stat_activity."""

CONNECT_TIMEOUT = 2
"""Seconds to connect to each host. libpq accepts no fewer."""

TCP_USER_TIMEOUT = 1.5
"""Seconds after which data that the other machine has not acknowledged ends a connection."""

IDLE_IN_TRANSACTION_TIMEOUT = 10
"""Seconds that a transaction may wait for its next statement while it holds locks."""

POOL_WAIT = 1.0
"""Seconds that a call waits for a connection before it is rejected."""

MAX_CONNECTION_AGE = 30 * 60
"""Seconds after which a connection is replaced, for example to follow a change of DNS."""

INDEX_PLAN_OPTIONS = (
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
    " -c max_parallel_workers_per_gather=0"
)
"""Options for statements that find rows by an index. They are planned once, whatever the
statistics say, because planning takes longer than finding a row. No index is unique by the digest
alone, so the planner expects many rows until the table is analyzed, and would start workers."""
