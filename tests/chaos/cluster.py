"""The servers and the PostgreSQL of a run, and how they fail."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1.user_service_pb2 import GetUserRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.embedded.server_setup import free_port
from tests.chaos.faulty_wire import Wire
from tests.chaos.recording_client import RECONNECT
from tests.support.commands import COMMAND, IMPATIENT, ROOT, serving

MUTANT_COMMAND = (sys.executable, "-m", "tests.chaos.mutant_service")

DURABLE = {
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "60",
    "superuser_reserved_connections": "3",
    # Connections of a frozen or killed service must not stay.
    "restart_after_crash": "on",
}
"""Settings of a database whose commits survive a crash."""

MODEST = {
    "TAMATAR_POOL_SIZE": "8",
    "TAMATAR_HASH_THREADS": "1",
    "TAMATAR_LOG_LEVEL": "info",
    "TAMATAR_SESSIONS_PER_USER": "10000",
}


class Postgres:
    """A PostgreSQL that can be killed, stopped and frozen."""

    def __init__(self, folder: Path, disk: Path | None = None) -> None:
        self.disk = disk
        """The small file system for databases; None if there is none."""
        self._folder = folder
        self._embedded = EmbeddedPostgres(folder, settings=DURABLE)
        # The guard of the server ends with the thread that started it.
        self._thread = ThreadPoolExecutor(max_workers=1)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return self._embedded.url(database)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self._do(self._embedded.start)

    async def stop(self) -> None:
        """Shut it down in order."""
        await self._do(self._embedded.stop)

    async def restart(self, *, immediately: bool) -> None:
        """Restart it as `pg_ctl restart -m fast` or `-m immediate` does."""
        if immediately:
            _signal(self._pids()[0], signal.SIGQUIT)
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """Kill all its processes."""
        await self._do(self._embedded.kill)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes while the block runs."""
        pids = self._pids()
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    async def administer(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as its superuser, each in its own transaction."""
        rows: list[tuple[Any, ...]] = []
        async with await psycopg.AsyncConnection.connect(
            self.url(), autocommit=True, options="-c default_transaction_read_only=off"
        ) as connection:
            for statement in statements:
                cursor = await connection.execute(statement)
                rows = await cursor.fetchall() if cursor.description else []
        return rows

    async def _do(self, work: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _pids(self) -> list[int]:
        lock = next(self._folder.glob("*/data/postmaster.pid"))
        postmaster = int(lock.read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]


class Service:
    """A server process that is restarted after its end, on the same port."""

    def __init__(self, folder: Path, url: str, mutant: str = "", **env: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._env = {"TAMATAR_LISTEN": self.address, "TAMATAR_DATABASE_URL": url, **MODEST, **env}
        self._env["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        command = (*MUTANT_COMMAND, mutant) if mutant else (COMMAND, "serve")
        # A server ends with this process.
        self._command = (*command, "--exit-with-parent", str(os.getpid()))
        self._life = contextlib.ExitStack()
        self._server: Any = None
        self.failed: list[Any] = []
        """The faults of its own that it logged."""

    async def start(self) -> None:
        """Start it and wait until it answers calls."""
        self._server = self._life.enter_context(
            serving(limits=IMPATIENT, cwd=self._folder, command=self._command, **self._env)
        )
        await asyncio.to_thread(lambda: self._server.addresses)

    async def kill(self) -> None:
        """Kill it."""
        self._server.process.kill()
        await self.end()

    async def end(self) -> int:
        """Stop it if it runs, wait, and return its exit code."""
        await asyncio.to_thread(self._life.close)
        self.failed += [*self._server.events("call failed"), *self._server.events("crashed")]
        return int(self._server.process.returncode)

    @property
    def memory(self) -> int:
        """Its memory in bytes; 0 where the system does not tell."""
        status = Path(f"/proc/{self._server.process.pid}/status")
        if not status.exists():
            return 0
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) * 1024

    async def is_well(self) -> bool:
        """Return whether it is healthy and answers a call."""
        options = [*RECONNECT, ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            health: Any = HealthStub(channel)
            users = UserServiceStub(channel)
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                await users.GetUser(GetUserRequest(user_id=str(uuid4())), timeout=2)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Cluster:
    """A PostgreSQL, the servers on one of its databases, and the wire of the last server."""

    def __init__(
        self, postgres: Postgres, database: str, services: Sequence[Service], wire: Wire
    ) -> None:
        self.postgres = postgres
        self.database = database
        self.services = services
        self.wire = wire

    async def start(self) -> None:
        """Start all servers."""
        await asyncio.gather(*(service.start() for service in self.services))

    async def end(self) -> list[int]:
        """Stop all servers, and return their exit codes."""
        return [*await asyncio.gather(*(service.end() for service in self.services))]

    async def is_well(self) -> bool:
        """Return whether all servers serve."""
        return all(await asyncio.gather(*(service.is_well() for service in self.services)))


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
