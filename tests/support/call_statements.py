"""The statements of calls."""

import contextlib
from collections.abc import Iterator, Sequence

from sqlalchemy import event

from tamatar_auth.security.callers import current_caller
from tamatar_auth.server.lifecycle import RunningService


@contextlib.contextmanager
def statements_of_calls(service: RunningService) -> Iterator[Sequence[str]]:
    """Record the statements of calls, except those that calls share.

    Jobs of the server, and checks of its database, may use the same engine at the same time.
    """
    statements = []

    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if current_caller.get() is not None:
            statements.append(statement)

    engine = service.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", see)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", see)
