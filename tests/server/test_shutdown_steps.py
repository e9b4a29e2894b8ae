"""The steps of a shutdown, by the names that the log has for them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import structlog.testing

from tamatar_auth.config.settings import Settings
from tamatar_auth.server.lifecycle import RunningService


class Stuck:
    """A component or a gRPC server that never closes."""

    def __getattr__(self, _name: str) -> Any:
        async def hang(*_values: object) -> None:
            await asyncio.Event().wait()

        return hang


class Stoppable:
    """A component or a gRPC server that stops at once."""

    async def enter_graceful_shutdown(self) -> None:
        """Return at once."""

    async def stop(self, grace: float) -> None:
        """Return at once."""


class Calls(Stuck):
    """Calls that never end."""

    def end_streams(self) -> None:
        """End no stream."""


async def test_stuck_shutdown_logs_each_step_by_its_name():
    stuck = Stuck()
    components: Any = SimpleNamespace(
        health=Stoppable(),
        drain=Calls(),
        passwords=stuck,
        validator=stuck,
        activity=stuck,
        session_feed=stuck,
        database_monitor=stuck,
        database=stuck,
        orphaned=stuck,
    )
    server: Any = Stoppable()
    service = RunningService(Settings(), components, server, [], server, None)

    with structlog.testing.capture_logs() as logs:
        await service.stop()

    names = {line["what"] for line in logs if line["event"] == "left behind"}
    assert names == {
        *("calls", "hashes", "validations", "activity", "listener"),
        *("watch", "connections", "statements"),
    }
    assert names == set(service.unfinished)
