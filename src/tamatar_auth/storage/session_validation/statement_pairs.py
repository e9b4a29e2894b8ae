"""Two statements in one round trip: the second runs in a snapshot taken after the first.

psycopg's pipeline waits for the server when it ends, even if the call was cancelled because the
server is frozen. So this uses the functions of psycopg that its pipeline is made of.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakSet

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import fetch_many, send
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from tamatar_auth.storage.driver.connection import Connection
from tamatar_auth.storage.session_validation.connections import PreparedStatement

Rows: TypeAlias = Sequence[tuple[Any, ...]]


class StatementPair:
    """Two statements that are sent together. The second does not run if the first fails.

    They share a transaction, so a pooler sends both to the same server. In READ COMMITTED the
    second takes its snapshot when the first has ended.
    """

    def __init__(self, first: PreparedStatement, second: PreparedStatement) -> None:
        self._statements = {b"tamatar_first": first, b"tamatar_second": second}
        self._second = second
        self._prepared_on: WeakSet[Connection] = WeakSet()

    async def rows(self, connection: Connection, **values: object) -> tuple[Rows, Rows]:
        """Return the rows of both, or raise what psycopg raises.

        After an error the connection cannot be used again.
        """
        with self._second.observed(connection):
            return await connection.wait(self._run(connection, values))

    def _run(
        self, connection: Connection, values: Mapping[str, object]
    ) -> PQGen[tuple[Rows, Rows]]:
        connection.pgconn.enter_pipeline_mode()
        is_prepared = connection in self._prepared_on
        for name, statement in self._statements.items():
            _send(connection, name, statement, values, prepare=not is_prepared)
        connection.pgconn.pipeline_sync()
        yield from send(connection.pgconn)
        found: list[Rows] = []
        for _ in self._statements:
            if not is_prepared:
                yield from _fetch(connection)
            found.append(_load(connection, (yield from _fetch(connection))))
        yield from fetch_many(connection.pgconn)  # the end of the pipeline
        connection.pgconn.exit_pipeline_mode()
        self._prepared_on.add(connection)
        return found[0], found[1]


def _send(
    connection: Connection,
    name: bytes,
    statement: PreparedStatement,
    values: Mapping[str, object],
    *,
    prepare: bool,
) -> None:
    bound = statement.bind(values)
    transformer = Transformer(connection)
    encoded = transformer.dump_sequence(bound, [PyFormat.AUTO] * len(bound))
    if prepare:
        connection.pgconn.send_prepare(name, statement.text.encode(), transformer.types)
    connection.pgconn.send_query_prepared(name, encoded, transformer.formats, Format.BINARY)


def _fetch(connection: Connection) -> PQGen[PGresult]:
    result: PGresult
    (result,) = yield from fetch_many(connection.pgconn)
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise psycopg.errors.error_from_result(result)
    return result


def _load(connection: Connection, result: PGresult) -> Rows:
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
