"""The URL of the database: the parameters that libpq takes from it, and the rules it must obey."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

_ENCODE = (
    "must have special characters of the user and the password as %XX"
    " (%25 for %, %2F for /, %40 for @), and a number as its port"
)
_SEARCH_PATH = "write options=-csearch_path%3DNAME"
_TLS = "use sslmode and sslrootcert"
_POOL = "set TAMATAR_POOL_SIZE"

FOREIGN_PARAMETERS: Mapping[str, str] = {
    "applicationname": "write application_name",
    "charset": "remove it",
    "command_timeout": "set TAMATAR_STATEMENT_TIMEOUT",
    "conn_max_age": "remove it",
    "connection_limit": _POOL,
    "connecttimeout": "write connect_timeout",
    "currentschema": _SEARCH_PATH,
    "database": "write dbname",
    "default_query_exec_mode": "remove it",
    "encoding": "remove it",
    "idle_in_transaction_session_timeout": "write options=-cidle_in_transaction_session_timeout"
    "%3D10s",
    "lock_timeout": "set TAMATAR_LOCK_TIMEOUT",
    "logintimeout": "write connect_timeout",
    "max_overflow": _POOL,
    "pgbouncer": "remove it",
    "pool": _POOL,
    "pool_max_conns": _POOL,
    "pool_pre_ping": "remove it",
    "pool_recycle": "remove it",
    "pool_size": _POOL,
    "pool_timeout": "remove it",
    "prepared_statement_cache_size": "remove it",
    "prepared_statements": "remove it",
    "preparethreshold": "remove it",
    "schema": _SEARCH_PATH,
    "search_path": _SEARCH_PATH,
    "server_settings": "write options=-cNAME%3DVALUE",
    "socket_timeout": "write tcp_user_timeout",
    "sockettimeout": "write tcp_user_timeout",
    "ssl": _TLS,
    "ssl_ca": "write sslrootcert",
    "ssl_cert": "write sslcert",
    "ssl_key": "write sslkey",
    "ssl_mode": "write sslmode",
    "sslaccept": _TLS,
    "sslca": "write sslrootcert",
    "sslfactory": _TLS,
    "sslidentity": "use sslcert and sslkey",
    "statement_cache_size": "remove it",
    "statement_timeout": "set TAMATAR_STATEMENT_TIMEOUT",
    "targetservertype": "write target_session_attrs",
    "tcpkeepalive": "write keepalives",
    "timezone": "remove it",
    "username": "write user",
}
"""Parameters of Prisma, SQLAlchemy, JDBC, asyncpg and others, in lower case, and what to do."""

_LIKELY = 0.8
"""The similarity of a misspelt name to the meant one."""


def strip_driver(url: str) -> str:
    """Return a URL for libpq, without SQLAlchemy's name of a driver."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", url)


def check_database_url(url: str) -> None:
    """Raise `ValueError` with a rule if libpq cannot use a URL.

    No rule repeats a text of the URL: what looks like a parameter may belong to the password.
    """
    # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
    parts = re.fullmatch(
        r"postgres(?:ql)?://(?:[^@/]*@)?([^/?]*)(?:/([^?]*))?(?:\?(.*))?", url, re.DOTALL
    )
    if parts is None:
        raise ValueError("must be a URL that begins with postgresql://")
    hosts, database, query = (part or "" for part in parts.groups())
    are_hosts = all(re.fullmatch(r"(\[[^]]*\]|[^][:@]*)(:\d*)?", host) for host in hosts.split(","))
    if not are_hosts or "@" in database or re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise ValueError(_ENCODE)
    _check_query(query)
    # Settings without a URL load no driver.
    from psycopg import ProgrammingError  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        conninfo_to_dict(url)
    except ProgrammingError:  # its text shows parts of the URL
        raise ValueError(_ENCODE) from None
    _check_values(url)


def effective_parameters(url: str) -> Mapping[str, str]:
    """Return the parameters that libpq uses for a URL.

    The URL takes precedence over its service file, and that file over the `PG` variables.
    """
    return _resolve(url)[0]


def listed_hosts(url: str) -> Sequence[Mapping[str, str]]:
    """Return the host, port and, if set, address of each host that a URL lists.

    They may also come from its service file or the `PG` variables.
    """
    # No machine has this address, so libpq reads the parameters and gives up.
    values = _resolve(url, hostaddr="-")[0]
    columns = {name: values[name].split(",") for name in ("host", "port") if name in values}
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if addresses := conninfo_to_dict(url).get("hostaddr"):
        columns["hostaddr"] = str(addresses).split(",")
    count = max(map(len, columns.values()), default=1)
    # One port counts for all hosts.
    lists = {name: each * count if len(each) == 1 else each for name, each in columns.items()}
    return [{name: each[place] for name, each in lists.items()} for place in range(count)]


def _check_query(query: str) -> None:
    from psycopg.pq import Conninfo  # noqa: PLC0415

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    faults = []
    for number, parameter in enumerate(filter(None, query.split("&")), start=1):
        name, is_set, value = parameter.partition("=")
        if not is_set:
            faults.append(f"parameter {number} after the question mark (write NAME=VALUE)")
        elif name.lower() in FOREIGN_PARAMETERS and (name, value) != ("ssl", "true"):
            faults.append(f"{name} ({FOREIGN_PARAMETERS[name.lower()]})")
        elif name not in known:
            near = get_close_matches(name.lower(), known, 1, _LIKELY)
            advice = f"write {near[0]}" if near else "remove it"
            faults.append(f"parameter {number} after the question mark ({advice})")
    if faults and "@" in query:
        raise ValueError(_ENCODE)
    if faults:
        raise ValueError(f"has parameters that libpq does not know: {', '.join(faults)}")


def _check_values(url: str) -> None:
    _, error = _resolve(url)
    if error.startswith("definition of service"):
        raise ValueError("names a service that no service file defines")
    if found := re.match(r"invalid (\w+) value", error):
        raise ValueError(f"has a value of {found[1]} that libpq does not know")


def _resolve(url: str, **unusable: str) -> tuple[Mapping[str, str], str]:
    """Return the parameters that libpq uses for a URL, and its error.

    `unusable` are parameters with which libpq cannot connect.
    """
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415
    from psycopg.pq import PGconn  # noqa: PLC0415

    # libpq reads service files only when it connects. No server has its socket in this directory.
    nowhere = unusable or {"host": "/", "hostaddr": "", "port": ""}
    attempt = PGconn.connect_start(make_conninfo(url, **nowhere).encode())
    try:
        values = {option.keyword.decode(): option.val for option in attempt.info}
        error = attempt.get_error_message()
    finally:
        attempt.finish()
    return {name: value.decode() for name, value in values.items() if value}, error
