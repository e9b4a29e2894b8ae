"""DiagnosticsService. The comments of the proto document its methods."""

from tamatar.auth.v1 import diagnostics_service_pb2 as pb
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceServicer
from tamatar_auth.security.callers import get_caller
from tamatar_auth.servicers import Context
from tamatar_auth.storage.database import Database

SLOWEST_QUERIES_LIMIT = 10


class DiagnosticsServicer(DiagnosticsServiceServicer):
    """The servicer of DiagnosticsService."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetCaller(
        self, request: pb.GetCallerRequest, context: Context
    ) -> pb.GetCallerResponse:
        caller = get_caller()
        return pb.GetCallerResponse(name=caller.name, roles=sorted(caller.roles))

    async def GetDatabaseInfo(
        self, request: pb.GetDatabaseInfoRequest, context: Context
    ) -> pb.GetDatabaseInfoResponse:
        pool = self._database.pool
        async with self._database.snapshot() as db:
            counts = await db.diagnostics.connections()
            version = await db.diagnostics.server_version()
            revision = await db.diagnostics.schema_revision()
        return pb.GetDatabaseInfoResponse(
            connections=pb.ConnectionCounts(**counts._asdict()),
            pool=pb.PoolCounts(**pool._asdict()),
            server_version=version,
            schema_revision=revision or "",
        )

    async def ListSlowestQueries(
        self, request: pb.ListSlowestQueriesRequest, context: Context
    ) -> pb.ListSlowestQueriesResponse:
        async with self._database.snapshot() as db:
            queries = await db.diagnostics.slowest_queries(limit=SLOWEST_QUERIES_LIMIT)
        return pb.ListSlowestQueriesResponse(
            queries=[pb.QueryStats(**query._asdict()) for query in queries]
        )
