"""The methods of UserService that move many users. The proto's comments document them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from grpc.aio import ServicerContext

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.errors import Failure
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.servicers.field_rules import Rules
from tamatar_auth.servicers.messages import import_result
from tamatar_auth.servicers.page_tokens import fitting
from tamatar_auth.servicers.portable_users import arrivals, exported
from tamatar_auth.servicers.request_parsing import optional_id
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.user_export import Departure
from tamatar_auth.storage.repositories.user_import import Arrival
from tamatar_auth.storage.retry import settled

AT_ONCE = 500
"""The users of a message. The proto says so of those that come."""

LONGEST = 30.0
"""Seconds for the users of a message; a stream may go on for ever."""

IDS_IN_EVENT = 100
"""Some collectors cut lines of more than 8 KiB."""

_TURN = 50  # users, between which other calls have their turn

Context = ServicerContext[Any, Any]
Ready = TypeVar("Ready")


class TransferMethods:
    """Imports and exports."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules = Rules()

    async def ImportUsers(
        self, request_iterator: AsyncIterator[pb.ImportUsersRequest], context: Context
    ) -> AsyncIterator[pb.ImportUsersResponse]:
        readings = self._readings(request_iterator)
        # While PostgreSQL writes the users of a request, those of the next are read.
        async with contextlib.aclosing(ahead(readings)) as ready:
            async for read, kept in ready:
                new = [one for one in read if isinstance(one, Arrival)]
                work = partial(self._import, new, kept=kept)
                outcomes = await settled(work, within=LONGEST) if new else {}
                answer = pb.ImportUsersResponse()
                for one in read:
                    what = outcomes.get(one, one) if isinstance(one, Arrival) else one
                    import_result(answer.results.add(), what)
                yield answer

    async def ExportUsers(
        self, request: pb.ExportUsersRequest, context: Context
    ) -> AsyncIterator[pb.ExportUsersResponse]:
        after, with_hash = optional_id(request.after_user_id), request.include_password_hashes
        while page := await settled(partial(self._page, after), within=LONGEST):
            users = list(fitting(exported(one, with_hash=with_hash) for one in page))
            hashes = sum(bool(one.user.password_hash) for one in users)
            audit.record(Event.USERS_EXPORTED, users=len(users), password_hashes=hashes)
            yield pb.ExportUsersResponse(users=users)
            after = page[len(users) - 1].user.id

    async def _readings(
        self, requests: AsyncIterator[pb.ImportUsersRequest]
    ) -> AsyncIterator[tuple[Sequence[Arrival | Failure], bool]]:
        """Read the users of each request; tell whether they are to be kept."""
        async for request in requests:
            read: list[Arrival | Failure] = []
            for one in arrivals(request, self._rules):
                if len(read) % _TURN == 0:
                    await asyncio.sleep(0)
                read.append(one)
            yield read, not request.validate_only

    async def _import(
        self, arrivals: Sequence[Arrival], *, kept: bool
    ) -> Mapping[Arrival, UUID | Failure]:
        """Add users; tell of each that was not added what became of it."""
        scope = self._database.transaction if kept else self._database.rehearsal
        async with scope() as tx:
            added = await tx.imports.add(arrivals)
            await tx.imports.add_profiles(added)
            others = [arrival for arrival in arrivals if arrival not in added]
            outcomes = await tx.imports.settle(others) if others else {}
        if kept:
            _record([arrival.user.id for arrival in added])
        return outcomes

    async def _page(self, after: UUID | None) -> Sequence[Departure]:
        async with self._database.read() as db:
            return await db.exports.page(after, size=AT_ONCE)


async def ahead(source: AsyncIterator[Ready]) -> AsyncGenerator[Ready, None]:
    """Give what comes from a source, with the next one under way meanwhile."""
    following = asyncio.ensure_future(anext(source, None))
    try:
        while (one := await following) is not None:
            following = asyncio.ensure_future(anext(source, None))
            yield one
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _record(created: Collection[UUID]) -> None:
    ids = [str(user_id) for user_id in created]
    for first in range(0, len(ids), IDS_IN_EVENT):
        audit.record(Event.USERS_IMPORTED, user_ids=ids[first : first + IDS_IN_EVENT])
