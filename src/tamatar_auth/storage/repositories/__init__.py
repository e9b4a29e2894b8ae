"""Repositories: one class per table or use case, one statement per method."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Executable, Row
from sqlalchemy.ext.asyncio import AsyncConnection

from tamatar_auth.errors import Failure


class Repository:
    """Runs statements over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def _one(
        self, statement: Executable, values: Mapping[str, object], failure: Failure | type[Failure]
    ) -> Row[Any]:
        """Return the row of a statement, or raise `failure` if there is none."""
        row = (await self._connection.execute(statement, values)).one_or_none()
        if row is None:
            raise failure
        return row
