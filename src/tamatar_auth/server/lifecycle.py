"""A running service and how it stops."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.server.components import Components
from tamatar_auth.storage.database import Database

SHUTDOWN_STEP_SECONDS = 0.2
"""Seconds that each step of a shutdown may take after the grace period of the calls."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunningService:
    """A server that answers calls, with its components."""

    settings: Settings
    components: Components
    server: grpc.aio.Server
    addresses: Sequence[ListenAddress]
    health_server: grpc.aio.Server
    """Answers health and nothing else; it has no port unless the settings give it one."""
    health_address: ListenAddress | None
    background_tasks: Sequence[asyncio.Task[None]] = ()
    """Tasks that run as long as the server; the end of one is a crash."""
    unfinished: list[str] = field(default_factory=list)
    """The names of the steps that exceeded their time at the shutdown."""

    @property
    def database(self) -> Database:
        """The database of its calls."""
        return self.components.database

    async def wait_for_failure(self) -> None:
        """Raise the error that ended a gRPC server without a request to stop."""
        # Cancelling `wait_for_termination` cancels gRPC's own wait, so these tasks are left
        # to end with their servers.
        servers = (self.server, self.health_server)
        terminations = [asyncio.create_task(server.wait_for_termination()) for server in servers]
        ended, _ = await asyncio.wait(terminations, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        raise RuntimeError("gRPC has ended a server")

    async def stop(self) -> None:
        """Stop accepting calls, finish those in flight and running hashes, close the pools.

        Health turns NOT_SERVING first, so that load balancers move away before the port closes.
        A step that exceeds its time is left behind, because it must not delay the others.
        """
        await self.components.health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.drain_delay.total_seconds())
        self.components.drain.end_streams()
        grace = self.settings.shutdown_grace.total_seconds()
        await asyncio.gather(self.server.stop(grace), self.health_server.stop(grace))
        await self._close_components()

    async def _close_components(self) -> None:
        # The names are values of `what` in the log event "left behind": they do not change.
        components = self.components
        await self._finish_in_time(
            calls=components.drain.wait_until_idle(), hashes=components.passwords.close()
        )
        await self._finish_in_time(
            validations=components.validator.close(),
            activity=components.activity.flush(components.database),
            listener=components.session_feed.close(),
        )
        await self._finish_in_time(
            watch=components.database_monitor.close(),
            connections=components.database.close(),
        )
        await self._finish_in_time(statements=components.orphaned.close())

    async def _finish_in_time(self, **steps: Coroutine[Any, Any, None]) -> None:
        tasks = {asyncio.create_task(step, name=name) for name, step in steps.items()}
        ended, pending = await asyncio.wait(tasks, timeout=SHUTDOWN_STEP_SECONDS)
        for task in pending:
            task.cancel()
            self.unfinished.append(task.get_name())
            log.warning("left behind", what=task.get_name())
        for task in ended:
            task.result()
