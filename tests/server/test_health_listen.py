"""The port that serves health alone: orchestrators probe it."""

import asyncio
import socket
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tamatar.auth.v1.session_service_pb2 import ValidateSessionRequest
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.app import run_service
from tamatar_auth.server.ports import StartError
from tamatar_auth.servicers.health import LIVENESS
from tests.support.calls import refusal
from tests.support.certificates import Authority
from tests.support.commands import is_served, serving, tamatar
from tests.support.databases import TEMPLATE
from tests.support.settings import changed
from tests.support.waiting import PATIENCE, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HERE = "127.0.0.1:0"


@pytest.fixture
def guarded(settings, tmp_path):
    """Settings of a server that requires certificates, with an open port for health."""
    authority = Authority.make()
    certificate, key = authority.sign("localhost").write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.root.pem)
    return changed(
        settings,
        health_listen=ListenAddress.parse(HERE),
        tls_certificate_file=certificate,
        tls_key_file=key,
        tls_client_ca_file=tmp_path / "ca.pem",
    )


def probe(service):
    """Return a channel like that of a prober: plaintext, without credentials."""
    return grpc.aio.insecure_channel(str(service.health_address))


async def status_of(channel, name=""):
    asked = HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
    return (await asked).status


async def test_health_port_serves_health_alone_without_certificate(guarded):
    async with run_service(guarded) as service, probe(service) as channel:
        assert await status_of(channel) == SERVING
        assert await status_of(channel, "tamatar.auth.v1.SessionService") == SERVING
        call = SessionServiceStub(channel).ValidateSession(ValidateSessionRequest())
        assert (await refusal(call))[0] == StatusCode.UNIMPLEMENTED


async def test_malformed_request_on_health_port_is_refused(guarded):
    async with run_service(guarded) as service, probe(service) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")
        assert await refusal(call) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_server_without_database_is_alive_but_not_ready(guarded, tmp_path):
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        mine = guarded.with_database(postgres.url())
        async with run_service(mine) as service, probe(service) as channel:
            watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            await asyncio.to_thread(postgres.stop)
            assert (await watch.read()).status == NOT_SERVING

            assert await status_of(channel) == NOT_SERVING
            assert await status_of(channel, LIVENESS) == SERVING
            watch.cancel()


async def test_stop_ends_watches_and_closes_health_port(guarded):
    async with run_service(guarded) as service, probe(service) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(service.stop())
        with pytest.raises(grpc.aio.AioRpcError, match="This server is stopping"):
            await watch.read()
        await stopping
        with socket.socket() as closed:
            address = service.health_address
            assert closed.connect_ex((address.host, address.port)) != 0


async def test_taken_health_port_is_refused(guarded):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = ListenAddress("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(StartError, match="or set TAMATAR_HEALTH_LISTEN"):
            async with run_service(changed(guarded, health_listen=taken)):
                pass


def test_health_port_serves_commands_and_all_workers(guarded, postgres, tmp_path):
    name = f"health_{uuid4().hex}"
    given = {
        "TAMATAR_DATABASE_URL": postgres.create(name, TEMPLATE),
        "TAMATAR_TLS_CERTIFICATE_FILE": str(guarded.tls.certificate_file),
        "TAMATAR_TLS_KEY_FILE": str(guarded.tls.key_file),
        "TAMATAR_TLS_CLIENT_CA_FILE": str(guarded.tls.client_ca_file),
    }
    try:
        with serving("--workers", "2", cwd=tmp_path, TAMATAR_HEALTH_LISTEN=HERE, **given) as server:
            until(lambda: len(server.events("listening")) == 2)
            (address,) = {line["health"] for line in server.events("listening")}
            asked = given | {"TAMATAR_HEALTH_LISTEN": address}
            until(lambda: is_served(cwd=tmp_path, **asked))
            found = f"{address} is answered by a server that is SERVING"
            until(lambda: found in tamatar("doctor", cwd=tmp_path, code=None, **asked).stdout)
    finally:
        postgres.drop(name)


def test_workers_cannot_share_unix_socket_for_health(tmp_path):
    given = {"TAMATAR_HEALTH_LISTEN": "unix:health.sock", "TAMATAR_WORKERS": "2"}

    refused = tamatar("config", "show", cwd=tmp_path, code=2, **given)

    assert "TAMATAR_HEALTH_LISTEN (environment): several workers cannot share" in refused.stderr
