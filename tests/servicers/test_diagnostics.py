"""DiagnosticsService, health and reflection over a real channel."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from sqlalchemy import text

from tamatar.auth.v1 import diagnostics_service_pb2 as pb
from tamatar_auth.migrator.revisions import head_revision
from tamatar_auth.server.components import SERVICES
from tamatar_auth.servicers.health import LIVENESS, NOT_SERVING, SERVING, HealthServicer
from tests.support.calls import ada, refused


async def test_database_info_reports_connections_pool_and_versions(diagnostics, service):
    info = await diagnostics.GetDatabaseInfo(pb.GetDatabaseInfoRequest())

    assert info.connections.total >= info.connections.active + info.connections.idle >= 1
    assert info.connections.active >= 1
    assert info.connections.hidden == 0
    assert info.pool.size == service.settings.database.pool_size
    assert int(info.server_version.partition(".")[0]) >= 15
    assert info.schema_revision == head_revision()


async def test_slowest_queries_hold_no_values(diagnostics, users, database):
    async with database.read() as db:
        found = await db.connection.execute(text("SELECT to_regclass('pg_stat_statements')"))
        if found.scalar_one() is None:
            pytest.skip("this PostgreSQL has no pg_stat_statements")
    await users.CreateUser(ada())

    answer = await diagnostics.ListSlowestQueries(pb.ListSlowestQueriesRequest())

    assert 1 <= len(answer.queries) <= 10
    totals = [query.total_seconds for query in answer.queries]
    assert totals == sorted(totals, reverse=True)
    assert all(query.calls >= 1 and query.mean_seconds > 0 for query in answer.queries)
    assert "ada@example.com" not in str(answer)


async def test_slowest_queries_omit_utility_statements(diagnostics, database):
    async with database.transaction() as tx:
        await tx.connection.execute(text("SET LOCAL pg_stat_statements.track_utility = on"))
        await tx.connection.execute(text("CREATE ROLE canary PASSWORD 'canary-password'"))
        await tx.connection.execute(text("SELECT pg_sleep(0)"))
        await tx.connection.execute(text("DROP ROLE canary"))

    answer = await diagnostics.ListSlowestQueries(pb.ListSlowestQueriesRequest())

    assert "canary-password" not in str(answer)


async def test_slowest_queries_without_extension_names_remedy(diagnostics, database):
    async with database.transaction() as tx:
        await tx.connection.execute(text("DROP EXTENSION IF EXISTS pg_stat_statements"))
    try:
        said = await refused(diagnostics.ListSlowestQueries(pb.ListSlowestQueriesRequest()))
    finally:
        async with database.transaction() as tx:
            await tx.connection.execute(
                text(
                    "DO $$ BEGIN CREATE EXTENSION pg_stat_statements;"
                    " EXCEPTION WHEN OTHERS THEN NULL; END $$"
                )
            )

    assert (said.code, said.reason) == (
        StatusCode.FAILED_PRECONDITION,
        "QUERY_STATISTICS_MISSING",
    )
    assert "CREATE EXTENSION pg_stat_statements" in said.message


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_health_of_every_service_is_serving(channel, name):
    stub = HealthStub(channel)

    check = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_health_list_names_all_services(channel):
    listed = await HealthStub(channel).List(health_pb2.HealthListRequest())

    assert set(listed.statuses) == {"", "liveness", *SERVICES}


async def test_health_before_first_check_is_not_serving():
    health = HealthServicer(["t.Service"])

    statuses = (await health.List(None, None)).statuses

    assert {name: each.status for name, each in statuses.items()} == {
        "": NOT_SERVING,
        "t.Service": NOT_SERVING,
        LIVENESS: SERVING,
    }


async def test_health_of_unknown_service_is_not_found(channel):
    asked = HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nope"))

    assert (await refused(asked)).code is StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_services_and_their_files(channel, version):
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await call.read()
    names = {service.name for service in listed.list_services_response.service}
    files = {}
    for name in names:
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        answer = (await call.read()).file_descriptor_response
        files[name] = FileDescriptorProto.FromString(answer.file_descriptor_proto[0])
    await call.done_writing()

    assert names == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert files["tamatar.auth.v1.UserService"].name == "tamatar/auth/v1/user_service.proto"
    for name, file in files.items():
        assert name in {f"{file.package}.{service.name}" for service in file.service}
