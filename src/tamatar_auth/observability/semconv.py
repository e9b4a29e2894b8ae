"""The names in spans and metrics, by OpenTelemetry's semantic conventions.

https://opentelemetry.io/docs/specs/semconv/: the names for calls and statements are stable,
the names for connection pools are not yet.
"""

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
RPC_DURATION = "rpc.server.call.duration"
RPC_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets of call durations, in seconds."""

DB_SYSTEM = "db.system.name"
DB_NAMESPACE = "db.namespace"
DB_OPERATION = "db.operation.name"
DB_COLLECTION = "db.collection.name"
DB_SUMMARY = "db.query.summary"
DB_TEXT = "db.query.text"
DB_STATUS = "db.response.status_code"
DB_DURATION = "db.client.operation.duration"
DB_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""The buckets of statement durations, in seconds."""

POOL_COUNT = "db.client.connection.count"
POOL_MAX = "db.client.connection.max"
POOL_NAME = "db.client.connection.pool.name"
POOL_STATE = "db.client.connection.state"

# Names of this service: no convention covers them.
HASH_DURATION = "tamatar.hash.duration"
HASH_WAIT = "tamatar.hash.wait.duration"
HASH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""The buckets of hash durations, in seconds."""
HASH_PERMIT_COUNT = "tamatar.hash.turn.count"
HASH_PERMIT_MAX = "tamatar.hash.turn.max"
HASH_PERMIT_STATE = "tamatar.hash.turn.state"

CALLS = "tamatar.call.count"
CALLS_MAX = "tamatar.call.max"
CALLS_REFUSED = "tamatar.call.refused"
STREAMS = "tamatar.stream.count"
STREAMS_MAX = "tamatar.stream.max"
STREAMS_REFUSED = "tamatar.stream.refused"
CONNECTIONS_CLOSED = "tamatar.connection.closed"
ENDS_HEARD = "tamatar.session_end.heard"
WATCHES_ENDED = "tamatar.watch.ended"
WATCH_CAUSE = "tamatar.watch.cause"
ABANDONED = "tamatar.db.abandoned"
ABANDONED_OUTCOME = "tamatar.db.abandoned.outcome"
IN_DOUBT = "tamatar.db.in_doubt"
UNHANDLED_ERRORS = "tamatar.error.unhandled"
ERROR_ORIGIN = "tamatar.error.origin"
UNDELIVERED = "tamatar.call.undelivered"
VALIDATIONS = "tamatar.validation.count"
VALIDATION_SOURCE = "tamatar.validation.source"

CALL_STATEMENTS = "tamatar.db.statements"
CALL_SECONDS = "tamatar.db.seconds"
