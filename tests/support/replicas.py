"""Processes of the service at three addresses of this machine, behind one name."""

import contextlib
import re
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psycopg
import pytest
from psycopg import sql

from tests.support.commands import QUICK, SAMPLE_PASSWORD, Server, serving, tamatar
from tests.support.databases import TEMPLATE, Postgres
from tests.support.name_server import name_server
from tests.support.waiting import PATIENCE

NAME = "auth.test"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
USER, PASSWORD = "test1@example.com", SAMPLE_PASSWORD

CALLS = 90
"""Calls from which the shares of the replicas are counted."""

FAIR = range(CALLS // 4, CALLS * 42 // 100)
"""The calls of one of three replicas that are an even load."""

DRAIN = "2s"
"""How long a replica that stops serves clients that do not know it yet."""

_COUNT = re.compile(
    r'rpc_server_call_duration_seconds_count{.*rpc_method="[^"]*/ValidateSession".*} (\S+)'
)


class Replicas:
    """The replicas, by their addresses, and their name server."""

    def __init__(self, folder: Path, database: "OwnDatabase") -> None:
        self._folder, self.database = folder, database
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, Server] = {}
        with socket.socket() as probe:
            probe.bind((HOSTS[0], 0))
            self.port = probe.getsockname()[1]
        self.names = list(HOSTS)
        """The addresses to which the name resolves."""
        self.name_server = self._stack.enter_context(name_server(NAME, self.names))

    @property
    def target(self) -> str:
        """The name of all replicas, for clients on gRPC's core, in Go and on Node.js."""
        return f"dns://{self.name_server}/{NAME}:{self.port}"

    def start(self, *hosts: str) -> None:
        """Start replicas at the same time, and wait until they answer."""
        for host in hosts:
            folder = self._folder / f"{host}-{time.monotonic_ns()}"
            folder.mkdir()
            serve = serving(
                cwd=folder,
                TAMATAR_DATABASE_URL=self.database.url(host),
                TAMATAR_LISTEN=f"{host}:{self.port}",
                TAMATAR_DRAIN_DELAY=DRAIN,
                TAMATAR_SWEEP_INTERVAL="0s",
                TAMATAR_METRICS_ENABLED="true",
                TAMATAR_METRICS_LISTEN="127.0.0.1:0",
            )
            self._servers[host] = self._stack.enter_context(serve)
        for host in hosts:
            assert self._servers[host].addresses

    def reset(self) -> None:
        """Start the replicas that do not run, and let the name resolve to all."""
        self.names[:] = HOSTS
        self.start(*(host for host in HOSTS if host not in self._servers))

    def stop(self, host: str) -> None:
        """Stop a replica, and wait until it has drained and ended."""
        server = self._servers[host]
        server.ask(signal.SIGTERM)
        assert server.ended() == 0
        del self._servers[host]

    @contextlib.contextmanager
    def frozen(self, host: str) -> Iterator[None]:
        """Freeze a replica while the block runs."""
        process = self._servers[host].process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def served(self) -> Counter[str]:
        """Return how many sessions each running replica has validated."""
        return Counter({host: _validations(server) for host, server in self._servers.items()})

    def is_draining(self, host: str) -> bool:
        """Return whether a replica has begun to stop."""
        return bool(self._servers[host].events("stopping"))

    def close(self) -> None:
        """Stop all replicas. The second signal, from `serving`, ends them at once."""
        for server in self._servers.values():
            server.ask(signal.SIGTERM)
        self._stack.close()


class OwnDatabase:
    """A database that each replica uses as a role of its own, which can be locked out."""

    def __init__(self, postgres: Postgres) -> None:
        self._name = f"replicas_{secrets.token_hex(4)}"
        self._postgres, self._url = postgres, postgres.create(self._name, TEMPLATE)
        self._roles = {host: f"{self._name}_{number}" for number, host in enumerate(HOSTS)}
        for role in self._roles.values():
            self._change("CREATE ROLE {} SUPERUSER LOGIN PASSWORD 'x'", role)

    def url(self, host: str) -> str:
        """Return the URL for a replica."""
        parts = urlsplit(self._url)
        server = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self._roles[host]}:x@{server}").geturl()

    @contextlib.contextmanager
    def cut_off(self, host: str) -> Iterator[None]:
        """Keep a replica from the database while the block runs."""
        role = self._roles[host]
        self._change("ALTER ROLE {} NOLOGIN", role)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
            )
        try:
            yield
        finally:
            self._change("ALTER ROLE {} LOGIN", role)

    def drop(self) -> None:
        """Drop the database and its roles."""
        self._postgres.drop(self._name)
        for role in self._roles.values():
            self._change("DROP ROLE {}", role)

    def _change(self, statement: str, role: str) -> None:
        with psycopg.connect(self._postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(role)))


@pytest.fixture(scope="session")
def shared_replicas(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """The replicas of all tests of this worker, and the sample users."""
    database, folder = OwnDatabase(postgres), tmp_path_factory.mktemp("replicas")
    try:
        given: Any = {**QUICK, "TAMATAR_DATABASE_URL": database.url(HOSTS[0])}
        tamatar("seed", cwd=folder, **given)
        with contextlib.closing(Replicas(folder, database)) as replicas:
            yield replicas
    finally:
        database.drop()


@pytest.fixture
def replicas(shared_replicas: Replicas) -> Replicas:
    """Three replicas that run, at the addresses of one name."""
    shared_replicas.reset()
    return shared_replicas


def shares(replicas: Replicas, call: Callable[[], Any], calls: int = CALLS) -> Counter[str]:
    """Make calls, and return how many of them each replica has answered."""
    before = replicas.served()
    for _ in range(calls):
        call()
    return replicas.served() - before


def _validations(server: Server) -> int:
    (telemetry,) = server.events("telemetry")
    with urlopen(f"http://{telemetry['metrics_address']}/metrics", timeout=PATIENCE) as page:
        counts = _COUNT.findall(page.read().decode())
    return round(sum(map(float, counts)))
