"""`tamatar-auth serve` as a separate process: its start and its end."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1.diagnostics_service_pb2 import GetDatabaseInfoRequest
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar.auth.v1.user_service_pb2 import GetUserRequest
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceStub
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tests.support.calls import ada, refusal, sign_in
from tests.support.commands import COMMAND, serving, tamatar
from tests.support.frozen_postgres import frozen
from tests.support.waiting import PATIENCE, eventually, until

UNREACHABLE = "postgresql://ada:hunter2@127.0.0.1:1/auth"
PASSWORD = "TestPass123!"

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# A background task that fails unexpectedly.
CRASHING = """
from tamatar_auth.config.settings import Settings
from tamatar_auth.server import app, run

async def fail(database, settings):
    raise LookupError("lost")

app.sweep_periodically = fail
run.serve(Settings.load(listen="127.0.0.1:0"))
"""

# The server is grpcio's own, as with an unsupported release. A path that is not text ends
# the server of 1.84 and 1.85.
UNKNOWN_GRPCIO = """
from tamatar_auth.config.settings import Settings
from tamatar_auth.server import grpcio_release, run

grpcio_release.TRIED = "none"
run.serve(Settings.load(listen="127.0.0.1:0"))
"""

# A parent that starts a server as `make` does, and waits for its end.
PARENT = "import os, subprocess, sys; subprocess.run([*sys.argv[1:], str(os.getpid())])"


def processes_of(folder):
    """Return the processes that name a folder in their command line or run in it."""
    return [int(at.name) for at in Path("/proc").glob("[0-9]*") if _concerns(at, folder)]


def _concerns(process, folder):
    with contextlib.suppress(OSError):
        if str(folder) in (process / "cmdline").read_text(errors="replace"):
            return True
        return (process / "cwd").readlink().is_relative_to(folder)
    return False


def channel_to(server, place=0):
    return grpc.aio.insecure_channel(server.addresses[place])


async def status_of(channel):
    answer = await HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE
    )
    return answer.status


async def is_waited_for(url):
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with await psycopg.AsyncConnection.connect(url) as connection:
        (count,) = await (await connection.execute(waiting)).fetchone()
    return count > 0


async def until_it_ends(watch):
    while await watch.read() is not grpc.aio.EOF:
        pass


async def serves(channel):
    return await status_of(channel) == SERVING


def readiness_lines(server):
    return [line for line in server.logs if line["event"] in ("serving", "not serving")]


def said_why(server):
    return " | ".join(line["why"] for line in server.events("not serving"))


class TestStart:
    """Servers that start."""

    async def test_dev_server_prepares_on_first_start_only(self, tmp_path):
        home = tmp_path / "a folder"
        home.mkdir()
        data = home / ".tamatar"

        with serving("--dev", cwd=home) as server:
            async with channel_to(server) as channel:
                users, sessions = UserServiceStub(channel), SessionServiceStub(channel)
                await eventually(lambda: serves(channel))
                await users.CreateUser(ada())
                started = await sessions.CreateSession(
                    sign_in(email="test1@example.com", password=PASSWORD)
                )
                assert started.session_token.startswith("tms_")
                for password, expected in (
                    (PASSWORD, (StatusCode.FAILED_PRECONDITION, "EMAIL_NOT_VERIFIED")),
                    ("wrong", (StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")),
                ):
                    asked = sign_in(email="test2@example.com", password=password)
                    assert await refusal(sessions.CreateSession(asked)) == expected
            assert "first start only" in server.said
            assert f"answers calls on {server.addresses[0]}" in server.said
            assert processes_of(data)
            server.ask(signal.SIGINT)
            assert server.ended() == 0
            reasons = [line["event"] for line in server.logs if line["event"] != "left behind"]
            assert reasons[-2:] == ["stopping", "stopped"]
            assert not processes_of(data)

        with serving("--dev", cwd=home) as server:
            async with channel_to(server) as channel:
                found = await UserServiceStub(channel).GetUser(
                    GetUserRequest(email="ada@example.com")
                )
            assert found.user.first_name == "Ada"
            assert "first start only" not in server.said
            server.ask(signal.SIGTERM)
            assert server.ended() == 0
            assert not processes_of(data)

    def test_server_with_dead_parent_does_not_start(self, tmp_path):
        parent = subprocess.Popen([sys.executable, "-c", ""])
        parent.wait()

        asked = ("serve", "--dev", "--exit-with-parent", str(parent.pid))
        refused = tamatar(*asked, cwd=tmp_path, code=1)

        assert refused.stderr == f"Process {parent.pid} is gone, which this one belongs to.\n"
        assert not list(tmp_path.iterdir())

    async def test_server_without_tables_waits_and_reports_revision(self, tmp_path, empty_database):
        def migrate(*revision):
            tamatar("migrate", "up", *revision, cwd=tmp_path, TAMATAR_DATABASE_URL=empty_database)

        with serving(cwd=tmp_path, TAMATAR_DATABASE_URL=empty_database) as server:
            async with channel_to(server) as channel:
                assert await status_of(channel) == NOT_SERVING
                until(lambda: "the tables of this release are missing" in said_why(server))
                migrate("0001")
                until(lambda: "the tables are at 0001" in said_why(server))
                assert await status_of(channel) == NOT_SERVING
                migrate()
                await eventually(lambda: serves(channel))

            for line in server.events("not serving"):
                assert line["level"] == "error"
                # On a busy machine the database may also answer late.
                assert "`tamatar-auth migrate up`" in line["why"] or "not answer" in line["why"]
            until(lambda: readiness_lines(server)[-1]["event"] == "serving")

    async def test_server_without_database_answers_on_every_address(self, tmp_path):
        given = {
            "TAMATAR_DATABASE_URL": UNREACHABLE,
            "TAMATAR_LISTEN": "127.0.0.1:0, unix:auth.sock",
            "TAMATAR_SWEEP_INTERVAL": "0",
        }
        with serving(cwd=tmp_path, **given) as server:
            places = [address.replace("unix:", f"unix:{tmp_path}/") for address in server.addresses]
            assert len(places) == 2
            for place in places:
                async with grpc.aio.insecure_channel(place) as channel:
                    assert await status_of(channel) == NOT_SERVING
                    user = UserServiceStub(channel).GetUser(GetUserRequest(username="ada"))
                    assert await refusal(user) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
            socket = "unix:auth.sock"
            second = tamatar(
                "serve", "--listen", socket, cwd=tmp_path, code=2, TAMATAR_DATABASE_URL=UNREACHABLE
            )
            assert second.stderr.startswith(f"{socket} is in use by another process")
            patient = ("--timeout", "60")
            asked = tamatar("healthcheck", "--address", socket, *patient, cwd=tmp_path, code=1)
            assert asked.stdout == "NOT_SERVING\n"

            server.ask(signal.SIGTERM)
            assert server.ended() == 0
            reasons = [line["why"] for line in server.events("not serving")]
            assert reasons
            assert all(one != next_one for one, next_one in pairwise(reasons))
            for line in server.said.splitlines():
                assert json.loads(line).keys() >= {"timestamp", "level", "logger", "event"}
            assert "hunter2" not in server.said

    def test_socket_of_killed_server_is_taken_over(self, tmp_path):
        given = {"TAMATAR_DATABASE_URL": UNREACHABLE, "TAMATAR_LISTEN": "unix:auth.sock"}
        for signum in (signal.SIGKILL, signal.SIGTERM):
            with serving(cwd=tmp_path, **given) as server:
                assert server.addresses == ["unix:auth.sock"]
                server.ask(signum)
                server.ended()


# A method that never ends, even when it is cancelled.
STUCK = """
import asyncio
from tamatar_auth.config.settings import Settings
from tamatar_auth.server import run, shutdown
from tamatar_auth.servicers.diagnostics import DiagnosticsServicer

async def hang(self, request, context):
    print("stuck", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

DiagnosticsServicer.GetDatabaseInfo = hang
shutdown.DEADLINE_MARGIN_SECONDS = 4  # the log must come before a stalled process is killed
run.serve(Settings.load(listen="127.0.0.1:0"))
"""


async def end_beside_a_frozen_database(folder):
    """Stop a server whose calls wait for a frozen database; return exit code and server."""
    folder.mkdir()
    data = folder / "postgres"
    with EmbeddedPostgres(data, settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        given = {"TAMATAR_DATABASE_URL": postgres.url(), "TAMATAR_SHUTDOWN_GRACE": "100ms"}
        with serving(cwd=folder, **given) as server:
            async with channel_to(server) as channel:
                await eventually(lambda: serves(channel))
                with frozen(data):
                    users = UserServiceStub(channel)
                    calls = [users.GetUser(GetUserRequest(username="ada")) for _ in range(3)]
                    ended = asyncio.gather(*calls, return_exceptions=True)
                    await eventually(lambda: is_not_served(channel))
                    server.ask(signal.SIGTERM)
                    code = await asyncio.to_thread(server.ended)
                    assert all(isinstance(error, grpc.aio.AioRpcError) for error in await ended)
    return code, server


async def is_not_served(channel):
    return await status_of(channel) == NOT_SERVING


class TestStop:
    """Servers that stop, or crash."""

    def test_dev_server_leaves_no_postgres_when_killed(self, tmp_path):
        data = tmp_path / ".tamatar"

        with serving("--dev", cwd=tmp_path) as server:
            until(lambda: processes_of(data))
            server.ask(signal.SIGINT)
            assert server.ended() == 130
            assert "Traceback" not in server.said
            until(lambda: not processes_of(data))

        with serving("--dev", cwd=tmp_path) as server:
            assert server.addresses
            assert processes_of(data)
            server.ask(signal.SIGKILL)
            assert server.ended() == -signal.SIGKILL
            until(lambda: not processes_of(data))

        parent = (sys.executable, "-c", PARENT, COMMAND, "serve", "--dev")
        with serving("--exit-with-parent", cwd=tmp_path, command=parent) as server:
            assert server.addresses
            assert len(processes_of(tmp_path)) > len(processes_of(data)) > 0
            server.ask(signal.SIGKILL)
            assert server.ended() == -signal.SIGKILL
            until(lambda: not processes_of(tmp_path))
            assert server.events("stopped")

    async def test_sigterm_finishes_call_and_ends_watches(self, tmp_path, migrated_database):
        patient = {"TAMATAR_SHUTDOWN_GRACE": "5m", "TAMATAR_STATEMENT_TIMEOUT": "1m"}
        given = patient | {"TAMATAR_LOCK_TIMEOUT": "1m", "TAMATAR_DATABASE_URL": migrated_database}
        with serving(cwd=tmp_path, **given) as server:
            async with channel_to(server) as channel:
                await eventually(lambda: serves(channel))
                watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                assert (await watch.read()).status == SERVING
                with psycopg.connect(migrated_database) as holder:
                    holder.execute("LOCK TABLE users")
                    call = asyncio.ensure_future(UserServiceStub(channel).CreateUser(ada()))
                    await eventually(lambda: is_waited_for(migrated_database))
                    server.ask(signal.SIGTERM)
                    assert await refusal(until_it_ends(watch)) == (
                        StatusCode.UNAVAILABLE,
                        "SERVICE_STOPPING",
                    )
                    holder.rollback()
                assert (await call).user.email == "ada@example.com"
            assert server.ended() == 0

    def test_unexpected_error_is_logged_and_ends_server(self, tmp_path):
        crashing = (sys.executable, "-c", CRASHING)
        with serving(cwd=tmp_path, command=crashing, TAMATAR_DATABASE_URL=UNREACHABLE) as server:
            assert server.ended() == 1
            *_, last = server.logs
            assert (last["event"], last["level"]) == ("crashed", "critical")
            assert "LookupError: lost" in last["exception"]
            assert "hunter2" not in server.said

    async def test_server_ended_by_grpc_exits_as_after_crash(self, tmp_path, migrated_database):
        program = (sys.executable, "-c", UNKNOWN_GRPCIO)
        url = {"TAMATAR_DATABASE_URL": migrated_database}
        with serving(cwd=tmp_path, command=program, **url) as server:
            async with channel_to(server) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await channel.unary_unary(b"/\xff/x")(b"", timeout=PATIENCE)
            assert server.ended() == 1
            (warning,) = server.events("grpcio was not tried")
            assert warning["installed"] == grpc.__version__
            (line,) = server.events("crashed")
            assert "UnicodeDecodeError" in line["exception"]

    async def test_stuck_handler_does_not_delay_exit(self, tmp_path):
        stuck = (sys.executable, "-c", STUCK)
        given = {"TAMATAR_DATABASE_URL": UNREACHABLE, "TAMATAR_SHUTDOWN_GRACE": "100ms"}
        with serving(cwd=tmp_path, command=stuck, **given) as server:
            async with channel_to(server) as channel:
                asked = DiagnosticsServiceStub(channel).GetDatabaseInfo(GetDatabaseInfoRequest())
                call = asyncio.ensure_future(asked)
                await eventually(lambda: "stuck" in server.said)
                server.ask(signal.SIGTERM)

                assert await asyncio.to_thread(server.ended) == 1
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
            assert [line["what"] for line in server.events("left behind")] == ["calls"]
            assert server.events("ended late: something did not end")

    async def test_frozen_database_does_not_delay_exit(self, tmp_path):
        # The shutdown has a second. A stall of the machine may use it up once, not every time.
        for attempt in range(3):
            code, server = await end_beside_a_frozen_database(tmp_path / str(attempt))
            if code == 0 and not server.events("left behind"):
                assert server.events("stopped")
                return
        raise AssertionError(server.said)

    @pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    async def test_second_signal_ends_server_at_once(self, tmp_path, signum, code):
        stuck = (sys.executable, "-c", STUCK)
        given = {"TAMATAR_DATABASE_URL": UNREACHABLE, "TAMATAR_SHUTDOWN_GRACE": "5m"}
        with serving(cwd=tmp_path, command=stuck, **given) as server:
            async with channel_to(server) as channel:
                asked = DiagnosticsServiceStub(channel).GetDatabaseInfo(GetDatabaseInfoRequest())
                call = asyncio.ensure_future(asked)
                await eventually(lambda: "stuck" in server.said)
                server.ask(signal.SIGTERM)
                await eventually(lambda: server.events("stopping"))
                assert server.process.poll() is None
                server.ask(signum)

                assert await asyncio.to_thread(server.ended) == code
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
            assert server.events("ended at once")
