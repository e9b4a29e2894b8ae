"""The clients and the watchers of a run, and the calls with which it ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random

import grpc
import psycopg

from tests.chaos.clients import Client
from tests.chaos.history import History
from tests.chaos.recording_client import RECONNECT, Server
from tests.chaos.shared_state import SharedState
from tests.chaos.watchers import wait_for_last_end, watch

WATCHERS = 2
"""The number of clients that watch sessions, at each server."""

SETTLED = 30.0
"""Seconds after which a remaining connection or a missing end counts as lost."""

Disturbance = Callable[[SharedState, "asyncio.Future[list[None]]"], Awaitable[None]]
"""Faults that are injected while clients call; the future ends if a client fails."""


async def call_during(
    disturb: Disturbance,
    history: History,
    *,
    addresses: Sequence[str],
    database: Callable[[], str],
    seed: int,
    clients: Sequence[type[Client]],
) -> None:
    """Call and watch the servers at some addresses during a disturbance, and look back.

    The first client looks back. `database` returns the URL of their database after that.
    """
    state = SharedState(history)
    async with AsyncExitStack() as stack:
        callers = []
        for number, client in enumerate(clients):
            servers = [
                Server.at(await stack.enter_async_context(_channel(address, number)))
                for address in addresses
            ]
            callers.append(client(state, servers, Random(f"{seed} {number}")))
        watching = [
            asyncio.ensure_future(watch(state, server))
            for caller in callers[:WATCHERS]
            for server in caller.servers
        ]
        calling = asyncio.gather(*(caller.run() for caller in callers))
        try:
            await disturb(state, calling)
        finally:
            state.is_over = True
            await calling
        await _forget_attempts(database())
        await callers[0].look_back()
        last = await asyncio.wait_for(callers[0].end_one(), SETTLED)
        await wait_for_last_end(history, last)
        for each in watching:
            each.cancel()
        for outcome in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def _channel(address: str, number: int) -> grpc.aio.Channel:
    # Each client needs its own connection; channels with equal options share one.
    return grpc.aio.insecure_channel(address, options=[*RECONNECT, ("chaos.client", number)])


async def _forget_attempts(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("TRUNCATE password_attempts")
