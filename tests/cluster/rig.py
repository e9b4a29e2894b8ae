"""The rig: three machines of PostgreSQL under Patroni, etcd, and HAProxy."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg

from tamatar_auth.migrator.migrations import Migrations
from tests.cluster import isolation, network, processes
from tests.cluster import patroni_api as api
from tests.cluster.processes import PASSWORD, Node

NODES = ("pg1", "pg2", "pg3")
TEMPLATE = "rig_template"
OWNER = "tamatar"
PATIENCE = 300.0
"""Seconds to wait for the cluster to be whole. A busy machine needs them."""


class Rig:
    """The machines and their programs."""

    def __init__(self) -> None:
        self.nodes = {name: Node(name) for name in NODES}
        self.etcd = processes.etcd()
        self.haproxy = processes.haproxy()

    async def start(self) -> None:
        """Start everything, and create the template of all databases."""
        self.etcd.start()
        await until(lambda: api.request("etcd1", api.ETCD, "/health") is not None)
        processes.check_samples()
        for node in self.nodes.values():
            node.patroni.start()
        await until(self.is_whole)
        self.haproxy.start()
        await self.administer(
            f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}",
        )
        template = await self.primary_url(TEMPLATE, OWNER)
        await asyncio.to_thread(Migrations(template).upgrade)

    async def administer(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements on the primary as its superuser."""
        rows: list[tuple[Any, ...]] = []
        url = await self.primary_url("postgres")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for statement in statements:
                cursor = await connection.execute(statement)
                rows = await cursor.fetchall() if cursor.description else []
        return rows

    async def new_database(self) -> str:
        """Create a database with all tables; return its name."""
        name = f"rig_{uuid4().hex}"
        await self.administer(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {OWNER}")
        return name

    async def primary_url(self, database: str, user: str = "postgres") -> str:
        """Return the URL of the present primary."""
        leader = await self.leader()
        return f"postgresql://{user}:{PASSWORD}@{leader.name}:5432/{database}"

    async def service_urls(self, database: str) -> Mapping[str, str]:
        """Return the ways from a service to the database.

        The present leader is the first host, because a service that connects again tries it first.
        """
        leader = (await self.leader()).name
        names = sorted(NODES, key=lambda name: name != leader)
        hosts = ",".join(f"{name}:5432" for name in names)
        owner = f"postgresql://{OWNER}:{PASSWORD}@"
        return {
            "haproxy": f"{owner}127.0.0.1:5000/{database}",
            "hosts": f"{owner}{hosts}/{database}?target_session_attrs=read-write",
        }

    async def leader(self) -> Node:
        """Wait for a leader that holds the lock, and return it."""
        found: list[Node] = []

        def look() -> bool:
            found[:] = [node for node in self.nodes.values() if api.is_leader(node)]
            return len(found) == 1

        await until(look)
        return found[0]

    async def synchronous_standby(self) -> Node:
        """Wait for a synchronous standby, and return it."""
        found: list[str] = []

        def look() -> bool:
            listed = api.members([*self.nodes.values()])
            found[:] = [one["name"] for one in listed if api.is_synchronous(one)]
            return bool(found)

        await until(look)
        return self.nodes[found[0]]

    def is_whole(self) -> bool:
        """Return whether a leader runs with a synchronous standby, and all stream from it."""
        return api.is_whole([*self.nodes.values()])

    async def until_whole(self, patience: float = PATIENCE) -> None:
        """Wait until all machines are in the cluster again."""
        await until(self.is_whole, patience)

    async def until_writable(self) -> None:
        """Wait until a primary acknowledges a commit."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(psycopg.Error):
                    await self.administer("SELECT pg_logical_emit_message(true, 'rig', '')")
                    return
                await asyncio.sleep(0.2)

    async def configure(self, **settings: Any) -> Mapping[str, Any]:
        """Change settings of the cluster in etcd, wait until all machines have them.

        Return their values before.
        """
        leader = await self.leader()
        before = api.request(leader.name, api.PATRONI, "/config")
        asked = partial(api.request, leader.name, api.PATRONI, "/config", method="PATCH")
        await asyncio.to_thread(asked, **settings)

        def is_everywhere() -> bool:
            found = [api.request(name, api.PATRONI, "/config") or {} for name in self.nodes]
            return all(settings.items() <= one.items() for one in found)

        await until(is_everywhere)
        return {name: before.get(name) for name in settings}


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """Build the networks and run the rig; the namespaces end it."""
    isolation.mount_memory(network.HOSTS)
    network.build()
    rig = Rig()
    await rig.start()
    yield rig


async def until(condition: Callable[[], bool], patience: float = PATIENCE) -> float:
    """Wait for a condition, and return the seconds it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - began > patience:
            raise TimeoutError("the cluster did not get there")
        await asyncio.sleep(0.2)
    return time.monotonic() - began
