"""`tamatar-auth serve --workers`: several processes on one port, and their supervisor."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import CreateUserRequest, GetUserRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.client.aio import connect
from tests.support.calls import ada, sign_in
from tests.support.commands import is_served, serving, tamatar
from tests.support.databases import TEMPLATE
from tests.support.session_watchers import End, watching
from tests.support.waiting import PATIENCE, eventually, until

CHANNELS = 16
UNREACHABLE = "postgresql://ada:hunter2@127.0.0.1:1/auth"

# A separate connection for each channel, as if each were another process.
OWN = [("grpc.use_local_subchannel_pool", 1)]

ESTABLISHED = "01"


@contextlib.contextmanager
def working(*arguments, workers=2, **given):
    """Yield a server whose workers all answer."""
    with serving("--workers", str(workers), *arguments, **given) as server:
        until(lambda: server.events("workers answer") or server.process.poll() is not None)
        assert server.events("workers answer"), server.said
        yield server


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    """Two workers with metrics; a test may end workers, but not their supervisor."""
    name = f"workers_{uuid4().hex}"
    given = {
        "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
        "TAMATAR_POOL_SIZE": str(CHANNELS),  # with fewer, calls are refused when PostgreSQL stalls
        "TAMATAR_METRICS_ENABLED": "true",
        "TAMATAR_METRICS_LISTEN": "127.0.0.1:0",
    }
    with working(cwd=tmp_path_factory.mktemp("server"), **given) as server:
        yield server
    postgres.drop(name)


def state(pid):
    """Return the state of a process and its parent; None if it has ended."""
    with contextlib.suppress(OSError):
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return None if letter in "ZX" else (letter, int(parent))
    return None


def workers_of(server):
    """Return the live workers of a server."""
    every = [int(at.name) for at in Path("/proc").glob("[0-9]*")]
    found = [(pid, state(pid)) for pid in every]
    return {pid for pid, known in found if known and known[1] == server.process.pid}


def answering(server):
    """Return the live workers that have logged that they answer calls."""
    return {line["pid"] for line in server.events("listening")} & workers_of(server)


def connections(pid, port):
    """Return the number of connections to a port that a process holds."""
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(each.readlink()))
    tables = [Path(f"/proc/net/{table}") for table in ("tcp", "tcp6")]
    lines = [line for table in tables for line in table.read_text().splitlines()[1:]]
    rows = [(row[1], row[3], row[9]) for row in map(str.split, lines)]
    return sum(
        at.endswith(f":{port:04X}") and how == ESTABLISHED and f"socket:[{inode}]" in held
        for at, how, inode in rows
    )


def port_of(server):
    return int(server.addresses[0].rpartition(":")[2])


class Load:
    """Clients that call without pause, one call at a time on separate connections."""

    def __init__(self, server, email, shipped):
        self.answered = [0] * CHANNELS
        self.failed = []
        self._shipped = shipped
        self._address = server.addresses[0]
        self._request = GetUserRequest(email=email)
        self._over = False

    async def client(self, number):
        if self._shipped:
            async with connect(self._address, options=OWN) as auth:
                await self._read_and_write(number, auth.users)
        else:
            async with grpc.aio.insecure_channel(self._address, options=OWN) as channel:
                await self._read(number, UserServiceStub(channel))

    async def _read(self, number, users):
        while not self._over:
            call = users.GetUser(self._request, wait_for_ready=True, timeout=PATIENCE)
            await self._count(number, call)

    async def _read_and_write(self, number, users):
        """Call like a program that leaves retries to the client."""
        while not self._over:
            await self._count(number, users.GetUser(self._request, timeout=PATIENCE))
            someone = CreateUserRequest(email=f"{uuid4()}@example.com")
            await self._count(number, users.CreateUser(someone, timeout=PATIENCE))

    async def _count(self, number, call):
        try:
            await call
            self.answered[number] += 1
        except grpc.aio.AioRpcError as error:
            self.failed.append((number, error.code()))

    async def wait_for_progress(self):
        """Wait until each client has had more responses."""
        before = list(self.answered)
        await eventually(
            lambda: all(now > then + 2 for now, then in zip(self.answered, before, strict=True))
        )

    async def end(self, clients):
        self._over = True
        await asyncio.gather(*clients)


@contextlib.asynccontextmanager
async def load(server, *, shipped=False):
    email = f"{uuid4()}@example.com"
    async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
        await UserServiceStub(channel).CreateUser(ada(email=email), wait_for_ready=True)
    clients = Load(server, email, shipped)
    running = [asyncio.ensure_future(clients.client(number)) for number in range(CHANNELS)]
    try:
        await clients.wait_for_progress()
        yield clients
    finally:
        await clients.end(running)


def page(address):
    with urlopen(f"http://{address}/metrics", timeout=PATIENCE) as answer:
        return answer.read().decode()


@contextlib.asynccontextmanager
async def held_calls(folder, url):
    """Yield a server, a call in flight on each connection, and a function that releases them."""
    given = {
        "TAMATAR_SHUTDOWN_GRACE": "5m",
        "TAMATAR_STATEMENT_TIMEOUT": "1m",
        "TAMATAR_LOCK_TIMEOUT": "1m",
        "TAMATAR_POOL_SIZE": str(CHANNELS),
    }
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(working(cwd=folder, TAMATAR_DATABASE_URL=url, **given))
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(server.addresses[0], options=OWN)
            )
            for _ in range(CHANNELS)
        ]
        holder = stack.enter_context(psycopg.connect(url))
        watcher = stack.enter_context(psycopg.connect(url, autocommit=True))
        holder.execute("LOCK TABLE users")
        calls = [
            asyncio.ensure_future(
                UserServiceStub(channel).CreateUser(ada(email=f"ada{number}@example.com"))
            )
            for number, channel in enumerate(channels)
        ]
        await eventually(lambda: watcher.execute(waiting).fetchone() == (CHANNELS,))
        yield server, calls, holder.rollback


class TestStop:
    """The end of workers and their supervisor."""

    async def test_sigterm_waits_for_calls_of_all_workers(self, tmp_path, migrated_database):
        async with held_calls(tmp_path, migrated_database) as (server, calls, release):
            pids = workers_of(server)
            assert all(connections(pid, port_of(server)) for pid in pids)
            server.ask(signal.SIGTERM)
            await eventually(lambda: len(server.events("stopping")) == 2)
            release()
            assert len(await asyncio.gather(*calls)) == CHANNELS
            assert await asyncio.to_thread(server.ended) == 0
        assert len(server.events("stopped")) == 2
        assert not [pid for pid in pids if state(pid)]

    async def test_worker_signalled_directly_finishes_its_calls(self, tmp_path, migrated_database):
        async with held_calls(tmp_path, migrated_database) as (server, calls, let_go):
            pids = workers_of(server)
            # systemd signals every process of a service.
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            server.ask(signal.SIGTERM)
            await eventually(lambda: len(server.events("stopping")) == len(pids))
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(0.2)
            let_go()
            assert len(await asyncio.gather(*calls)) == CHANNELS
            assert await asyncio.to_thread(server.ended) == 0

    async def test_second_signal_ends_all_workers_at_once(self, tmp_path, migrated_database):
        async with held_calls(tmp_path, migrated_database) as (server, calls, _):
            pids = workers_of(server)
            server.ask(signal.SIGTERM)
            await eventually(lambda: len(server.events("stopping")) == 2)
            server.ask(signal.SIGINT)
            assert await asyncio.to_thread(server.ended) == 128 + signal.SIGINT
            ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {error.code() for error in ended} == {StatusCode.UNAVAILABLE}
        assert not server.events("stopped")
        assert not [pid for pid in pids if state(pid)]

    def test_workers_end_with_killed_supervisor(self, tmp_path):
        with working(cwd=tmp_path, TAMATAR_DATABASE_URL=UNREACHABLE) as server:
            pids = workers_of(server)
            assert len(pids) == 2
            server.ask(signal.SIGKILL)
            assert server.ended() == -signal.SIGKILL
            until(lambda: not [pid for pid in pids if state(pid)])
            assert len(server.events("stopped")) == 2

    def test_sigterm_before_workers_answer_ends_them(self, tmp_path):
        with serving("--workers", "2", cwd=tmp_path, TAMATAR_DATABASE_URL=UNREACHABLE) as server:
            pids = until(lambda: workers_of(server))
            server.ask(signal.SIGTERM)
            assert server.ended() == 0
            assert not [pid for pid in pids if state(pid)]


class TestStart:
    """Addresses and errors before the start."""

    def test_start_error_is_reported_once_for_workers(self, tmp_path):
        given = {"TAMATAR_DATABASE_URL": UNREACHABLE, "TAMATAR_PASSWORD_KEYS_FILE": "nothing"}
        said = [
            tamatar("serve", "--workers", count, cwd=tmp_path, code=2, **given).stderr
            for count in ("1", "3")
        ]

        assert said[0] == said[1]
        assert said[1].count("TAMATAR_PASSWORD_KEYS_FILE: cannot be read") == 1

    def test_workers_cannot_share_unix_sockets(self, tmp_path):
        asked = ("serve", "--workers", "2", "--listen", "127.0.0.1:0,unix:auth.sock")
        refused = tamatar(*asked, cwd=tmp_path, code=2, TAMATAR_DATABASE_URL=UNREACHABLE)

        rule = "several workers cannot share unix:auth.sock: use host:port only"
        assert refused.stderr.splitlines()[1:] == [f"TAMATAR_LISTEN (command line): {rule}"]

    @pytest.mark.parametrize("shared", [False, True])
    def test_taken_port_is_refused_even_if_shareable(self, tmp_path, shared):
        with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            asked = ("serve", "--workers", "2", "--listen", address)
            refused = tamatar(*asked, cwd=tmp_path, code=2, TAMATAR_DATABASE_URL=UNREACHABLE)

        message = f"{address} is in use by another process: end that, or set TAMATAR_LISTEN.\n"
        assert refused.stderr == message

    def test_port_of_workers_counts_as_taken(self, tmp_path, server):
        for count in ("1", "2"):
            asked = ("serve", "--workers", count, "--listen", server.addresses[0])
            refused = tamatar(*asked, cwd=tmp_path, code=2, TAMATAR_DATABASE_URL=UNREACHABLE)
            assert "is in use by another process" in refused.stderr


class TestWorkers:
    """Workers that answer, die and are replaced."""

    async def test_all_workers_answer_calls(self, server):
        async with load(server) as clients:
            held = [connections(pid, port_of(server)) for pid in workers_of(server)]
            pages = {line["worker"]: line["metrics_address"] for line in server.events("telemetry")}
            read = [await asyncio.to_thread(page, address) for address in pages.values()]

        assert len(held) == 2
        assert all(held)
        assert sum(held) == CHANNELS
        assert sorted(pages) == [0, 1]
        assert all(re.search(r"duration_seconds_count\{.*GetUser.* [1-9]", text) for text in read)
        assert not clients.failed

    def test_health_is_answered_and_log_lines_name_worker(self, server, tmp_path):
        (address,) = server.addresses
        until(lambda: is_served("--address", address, cwd=tmp_path))

        def worker_of():
            return {line["pid"]: line["worker"] for line in server.events("serving")}

        until(lambda: answering(server) <= worker_of().keys())
        assert {worker_of()[pid] for pid in answering(server)} == {0, 1}

    def test_supervisor_loads_no_grpc(self, server):
        def has_grpc(pid):
            return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()

        assert all(map(has_grpc, answering(server)))
        assert not has_grpc(server.process.pid)

    async def test_killed_worker_loses_only_its_calls_in_flight(self, server):
        async with load(server) as clients:
            before = workers_of(server)
            victim = min(before)
            held = connections(victim, port_of(server))
            assert 0 < held < CHANNELS
            os.kill(victim, signal.SIGKILL)
            await eventually(
                lambda: len(answering(server)) == 2 and victim not in answering(server)
            )
            await clients.wait_for_progress()

        assert before - {victim} < workers_of(server)
        assert len({number for number, _ in clients.failed}) <= held, clients.failed
        assert {code for _, code in clients.failed} <= {StatusCode.UNAVAILABLE}

    async def test_watches_receive_ends_on_every_worker(self, server):
        email = f"{uuid4()}@example.com"
        # A worker that does not listen yet gets no connection.
        await eventually(lambda: len(answering(server)) == len(workers_of(server)) == 2)
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(server.addresses[0], options=OWN)
                )
                for _ in range(CHANNELS)
            ]
            await UserServiceStub(channels[0]).CreateUser(ada(email=email, email_verified=True))
            every = [SessionServiceStub(channel) for channel in channels]
            watches = [await stack.enter_async_context(watching(sessions)) for sessions in every]
            held = [connections(pid, port_of(server)) for pid in workers_of(server)]
            for sessions in every:
                started = await sessions.CreateSession(sign_in(email=email))
                session_id = started.session.session_id
                await sessions.RevokeSession(RevokeSessionRequest(session_id=session_id))
                for watch in watches:
                    await watch.wait_for(End(started.user.user_id, session_id))

        assert len(held) == 2
        assert all(held)

    async def test_worker_that_keeps_dying_restarts_later_each_time(self, server):
        def ends():
            return [line for line in server.events("worker ended") if line["worker"] == 1]

        before = len(ends())
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            for death in range(1, 4):
                await eventually(lambda: len(answering(server)) == 2)
                heard = {line["pid"]: line["worker"] for line in server.events("listening")}
                (victim,) = (pid for pid in answering(server) if heard[pid] == 1)
                os.kill(victim, signal.SIGKILL)
                await eventually(lambda deaths=before + death: len(ends()) == deaths)
                asked = GetUserRequest(username="unknown")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await UserServiceStub(channel).GetUser(asked, wait_for_ready=True)
                assert refused.value.code() in {StatusCode.NOT_FOUND, StatusCode.UNAVAILABLE}
        await eventually(lambda: len(answering(server)) == 2)

        first, second, third = (line["again_in"] for line in ends()[before:])
        assert first < second < third

    async def test_sighup_replaces_workers_without_failed_calls(self, server):
        before, times = workers_of(server), len(server.events("workers replaced"))
        async with load(server, shipped=True) as clients:
            server.ask(signal.SIGHUP)
            await eventually(lambda: len(server.events("workers replaced")) > times)
            await clients.wait_for_progress()

        assert not clients.failed
        assert len(workers_of(server)) == 2
        assert not workers_of(server) & before
        pages = {(line["worker"], line["metrics_address"]) for line in server.events("telemetry")}
        assert len(pages) == 2

    def test_workers_with_invalid_new_settings_stay(self, tmp_path):
        with working(cwd=tmp_path, TAMATAR_DATABASE_URL=UNREACHABLE) as server:
            before = workers_of(server)
            (tmp_path / ".env").write_text("TAMATAR_POOL_SIZE=0\n")
            server.ask(signal.SIGHUP)
            (line,) = until(lambda: server.events("worker not replaced"))
            assert "TAMATAR_POOL_SIZE (.env file)" in line["why"]
            assert workers_of(server) == before

    async def test_dev_server_prepares_once_for_all_workers(self, tmp_path):
        with working("--dev", cwd=tmp_path) as server:
            (address,) = server.addresses
            for _ in range(8):
                async with grpc.aio.insecure_channel(address, options=OWN) as channel:
                    await SessionServiceStub(channel).CreateSession(
                        sign_in(email="test1@example.com", password="TestPass123!")
                    )
            assert server.said.count("test1@example.com: created") == 1
            until(lambda: server.said.count(f"answers calls on {address}") == 1)
            pids = workers_of(server)
            server.ask(signal.SIGINT)
            assert await asyncio.to_thread(server.ended) == 0
            assert not [pid for pid in pids if state(pid)]


def test_worker_killed_before_it_answers_is_restarted(tmp_path, database_url):
    with serving("--workers", "2", cwd=tmp_path, TAMATAR_DATABASE_URL=database_url) as server:
        for _ in range(2):
            (first,) = until(lambda: workers_of(server))
            os.kill(first, signal.SIGKILL)
            until(lambda pid=first: state(pid) is None)
        until(lambda: server.events("workers answer") or server.process.poll() is not None)
        assert server.events("workers answer"), server.said
        assert [line["why"] for line in server.events("worker ended")] == ["signal 9"] * 2
        assert is_served("--address", server.addresses[0], cwd=tmp_path)


def test_worker_always_killed_at_start_ends_supervisor(tmp_path, database_url):
    with serving("--workers", "2", cwd=tmp_path, TAMATAR_DATABASE_URL=database_url) as server:
        killed = set()

        def has_ended():
            for pid in workers_of(server) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return server.process.poll() is not None

        until(has_ended)
        assert server.ended() == 1
        assert "A worker ended before it answered calls (signal 9)." in server.said
        assert len(server.events("worker ended")) == len(killed) - 1  # none follows the last
