"""A server that runs, what it works with, and how it stops."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.interceptors.in_flight import InFlightInterceptor
from tamatar_auth.observability.telemetry import Telemetry
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.server.credential_files import CredentialFiles
from tamatar_auth.server.database_monitor import DatabaseMonitor
from tamatar_auth.servicers.health import HealthServicer
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.driver.connection import OrphanedStatements
from tamatar_auth.storage.session_events.feed import SessionEndFeed
from tamatar_auth.storage.session_validation.last_activity import LastActivityWriter
from tamatar_auth.storage.session_validation.validator import SessionValidator

SHUTDOWN_STEP_SECONDS = 0.2
"""How long each step of the end may take once the calls should have ended."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Components:
    """What the server works with and whoever runs it has to end or to tell."""

    health: HealthServicer
    drain: InFlightInterceptor
    validator: SessionValidator
    activity: LastActivityWriter
    session_feed: SessionEndFeed
    orphaned: OrphanedStatements
    passwords: PasswordHasher
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class RunningService:
    """A server that answers calls, and what it works with."""

    settings: Settings
    credential_files: CredentialFiles
    database: Database
    database_monitor: DatabaseMonitor
    components: Components
    server: grpc.aio.Server
    addresses: Sequence[ListenAddress]
    health_server: grpc.aio.Server
    """Answers health and nothing else, where that is asked for."""
    health_address: ListenAddress | None
    background_tasks: Sequence[asyncio.Task[None]] = ()
    """Tasks that run as long as the server; one that ends is a fault."""
    unfinished: list[str] = field(default_factory=list)
    """What had not ended when the server had to go."""

    @property
    def log_addresses(self) -> Mapping[str, Any]:
        """Where it answers, as the log tells it."""
        log_fields: dict[str, Any] = {"addresses": [str(address) for address in self.addresses]}
        return (
            log_fields
            if self.health_address is None
            else log_fields | {"health": str(self.health_address)}
        )

    async def wait_for_failure(self) -> None:
        """Raise what ended a server of gRPC that was not told to end."""
        # Not to be cancelled, as gRPC's own waiting would be, too: they end with the servers.
        servers = (self.server, self.health_server)
        terminations = [asyncio.create_task(server.wait_for_termination()) for server in servers]
        ended, _ = await asyncio.wait(terminations, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        raise RuntimeError("gRPC has ended a server")

    async def stop(self) -> None:
        """Stop taking calls, finish those in flight and the hashes that run, close the pool.

        NOT_SERVING is said first, so that balancers turn away before the port closes. What
        does not end in its time is left behind: it shall not hold up the others, nor the end.
        """
        await self.components.health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.drain_delay.total_seconds())
        self.components.drain.end_streams()
        grace = self.settings.shutdown_grace.total_seconds()
        await asyncio.gather(self.server.stop(grace), self.health_server.stop(grace))
        components = self.components
        await self._finish_in_time(
            calls=components.drain.wait_until_idle(), hashes=components.passwords.close()
        )
        await self._finish_in_time(
            validations=components.validator.close(),
            activity=components.activity.flush(self.database),
            listener=components.session_feed.close(),
        )
        await self._finish_in_time(
            database_monitor=self.database_monitor.close(), connections=self.database.close()
        )
        await self._finish_in_time(statements=components.orphaned.close())

    async def _finish_in_time(self, **ends: Coroutine[Any, Any, None]) -> None:
        tasks = {asyncio.create_task(end, name=name) for name, end in ends.items()}
        ended, pending = await asyncio.wait(tasks, timeout=SHUTDOWN_STEP_SECONDS)
        for task in pending:
            task.cancel()
            self.unfinished.append(task.get_name())
            log.warning("left behind", what=task.get_name())
        for task in ended:
            task.result()
