"""A primary and a synchronous standby that change places."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.postgres import DATABASE, EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tests.support.frozen_postgres import frozen
from tests.support.waiting import until

# Processes are killed here, not machines: the system keeps what was written.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "on",
    "wal_keep_size": "512MB",
    "max_connections": "60",
}

STANDBY = "standby"

_CAUGHT_UP = """
    SELECT count(*) FROM pg_stat_replication
    WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= %s
"""


class Pair:
    """Two servers with one set of data: commits of one wait until the other has them."""

    def __init__(self, folder: Path) -> None:
        self._folders = {}
        servers = []
        for name in ("first", "second"):
            server = EmbeddedPostgres(folder / name, settings=SETTINGS)
            self._folders[server] = folder / name
            servers.append(server)
        self.primary, self.standby = servers
        self._frozen = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.primary.start()
            Migrations(self.primary.url()).upgrade()
            self.restore()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that leads to the server that accepts writes."""
        primary = urlsplit(self.primary.url())
        who = primary.netloc.rpartition("@")[0]
        ports = sorted((self.primary.port, self.standby.port))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{who}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def stop(self) -> None:
        """Stop both, the standby last, because final commits of the primary wait for it."""
        self.primary.stop()
        self.fence()

    def fail_over(self) -> None:
        """Kill the primary with all its processes, and promote the standby."""
        self.primary.kill()
        self.promote()

    def fall_silent(self) -> None:
        """Silence the primary, as if its host were cut off, and promote the standby."""
        self._frozen.enter_context(frozen(self._folders[self.primary]))
        self.promote()

    def fence(self) -> None:
        """Kill the server that is not the primary, so that it never accepts a write again."""
        self.standby.kill()
        self._frozen.close()

    def promote(self) -> None:
        """Promote the standby, whatever the state of the other server."""
        self.primary, self.standby = self.standby, self.primary
        # A statement that waits for the promotion could be in the way of the replay before it.
        ask(self.primary, "SELECT pg_promote(false)")
        until(lambda: not ask(self.primary, "SELECT pg_is_in_recovery()"))

    def restore(self) -> None:
        """Turn the server that is not the primary into a standby; it loses its data.

        The primary waits for it from the beginning, so concurrent writes wait too.
        """
        self.fence()
        self.start_waiting()
        # The copy begins with a checkpoint. By then the checkpointer, which makes commits wait, has
        # read the settings: nothing that comes later is confirmed too early.
        self._copy()
        self.rejoin()

    def rejoin(self) -> None:
        """Start the standby, and wait until it confirms the commits of the primary."""
        self.standby.start()
        written = ask(self.primary, "SELECT pg_current_wal_insert_lsn()")
        until(lambda: ask(self.primary, _CAUGHT_UP, written))

    def part(self) -> None:
        """Stop the standby from receiving, while it runs, so that stale reads show."""
        ask(self.standby, "ALTER SYSTEM SET primary_conninfo = ''")
        ask(self.standby, "SELECT pg_reload_conf()")
        until(lambda: not ask(self.primary, "SELECT count(*) FROM pg_stat_replication"))

    @contextlib.contextmanager
    def frozen_standby(self) -> Iterator[None]:
        """Freeze the standby while the block runs."""
        with frozen(self._folders[self.standby]):
            yield

    def start_waiting(self) -> None:
        """Let commits wait for the standby."""
        ask(self.primary, f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        ask(self.primary, "SELECT pg_reload_conf()")

    def stop_waiting(self) -> None:
        """Let the primary commit without its standby, as a failover manager does."""
        ask(self.primary, "ALTER SYSTEM RESET synchronous_standby_names")
        ask(self.primary, "SELECT pg_reload_conf()")

    def _copy(self) -> None:
        copy(self.primary, self._folders[self.standby], STANDBY)


@contextlib.contextmanager
def another_standby(source: EmbeddedPostgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    """Run an asynchronous standby of a server while the block runs."""
    server = EmbeddedPostgres(folder, settings=SETTINGS)
    copy(source, folder, "another")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def copy(source: EmbeddedPostgres, folder: Path, name: str) -> None:
    """Make a folder the data of a standby, which the source sees by its name."""
    home = folder / str(source.version)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700, parents=True)
    (home / "password").write_text(urlsplit(source.url()).password or "")
    data = home / "data"
    installation = Installation.find(source.version)
    assert installation is not None
    subprocess.run(
        [
            *(installation.binaries / "pg_basebackup", "--pgdata", data, "--no-sync"),
            *("--dbname", source.url("postgres"), "--checkpoint", "fast"),
        ],
        capture_output=True,
        check=True,
    )
    (data / "standby.signal").touch()
    origin = f"{source.url('postgres')}?application_name={name}"
    (data / "postgresql.auto.conf").write_text(f"primary_conninfo = '{origin}'\n")


def ask(server: EmbeddedPostgres, query: str, *values: object) -> Any:
    """Run a statement on one server and return its first value, or None."""
    with psycopg.connect(server.url(), autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(query.encode(), values or None)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def waiting(server: EmbeddedPostgres) -> int:
    """Return the number of connections whose commits wait for a standby."""
    count: int = ask(
        server,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'",
    )
    return count


def until_waiting(server: EmbeddedPostgres, enough: Callable[[int], bool] = bool) -> None:
    """Wait until a commit waits for a standby, or until enough of them do."""
    until(lambda: enough(waiting(server)))
