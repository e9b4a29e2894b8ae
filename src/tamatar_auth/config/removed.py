"""Variables that were settings in an earlier release, and their replacements."""

from collections.abc import Mapping

REMOVED_VARIABLES: Mapping[str, str] = {
    "TAMATAR_APPLICATION_NAME": "use application_name in TAMATAR_DATABASE_URL",
    "TAMATAR_CONNECT_TIMEOUT": "use connect_timeout in TAMATAR_DATABASE_URL",
    "TAMATAR_EMBEDDED_DIRECTORY": "the directory is always .tamatar/postgres",
    "TAMATAR_EXPIRED_SESSION_RETENTION": "expired sessions are removed by the next sweep",
    "TAMATAR_HEALTH_INTERVAL": "the interval is fixed",
    "TAMATAR_IDLE_IN_TRANSACTION_TIMEOUT": "use options=-c%20idle_in_transaction_session_timeout"
    "%3D10s in TAMATAR_DATABASE_URL",
    "TAMATAR_PASSWORD_CALL_DEADLINE": "it is always twice TAMATAR_CALL_DEADLINE",
    "TAMATAR_POOL_RECYCLE": "connections are always replaced after 30m",
    "TAMATAR_POOL_WAIT": "calls always wait up to 1s",
    "TAMATAR_SWEEP_BATCH_SIZE": "a batch is always 1000 rows",
    "TAMATAR_TCP_USER_TIMEOUT": "use tcp_user_timeout in TAMATAR_DATABASE_URL",
}
