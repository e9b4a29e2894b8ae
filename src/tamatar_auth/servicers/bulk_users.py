"""The methods of UserService that import and export users."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.errors import Failure
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.servicers import Context
from tamatar_auth.servicers.field_rules import FieldRules
from tamatar_auth.servicers.messages import write_import_result
from tamatar_auth.servicers.page_tokens import within_size_limit
from tamatar_auth.servicers.portable_users import exported_user_message, imported_users
from tamatar_auth.servicers.request_parsing import optional_id
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.repositories.user_export import ExportedUser
from tamatar_auth.storage.repositories.user_import import ImportedUser
from tamatar_auth.storage.retry import retry_rolled_back

USERS_PER_MESSAGE = 500
"""Users in a message. The proto sets the same limit for imports."""

MESSAGE_TIMEOUT = 30.0
"""Seconds for the users of a message. A stream has no deadline."""

IDS_PER_EVENT = 100
"""Ids in an audit event, because some collectors cut lines of more than 8 KiB."""

_USERS_BETWEEN_YIELDS = 50  # users to parse before other calls may run
Item = TypeVar("Item")


class BulkUserMethods:
    """Imports and exports users."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rules = FieldRules()

    async def ImportUsers(
        self, request_iterator: AsyncIterator[pb.ImportUsersRequest], context: Context
    ) -> AsyncIterator[pb.ImportUsersResponse]:
        batches = self._read_batches(request_iterator)
        # The users of the next request are parsed while PostgreSQL adds those of this one.
        async with contextlib.aclosing(prefetched(batches)) as prefetched_batches:
            async for read, persist in prefetched_batches:
                new = [one for one in read if isinstance(one, ImportedUser)]
                work = partial(self._import, new, persist=persist)
                outcomes = await retry_rolled_back(work, within=MESSAGE_TIMEOUT) if new else {}
                answer = pb.ImportUsersResponse()
                for one in read:
                    outcome = outcomes.get(one, one) if isinstance(one, ImportedUser) else one
                    write_import_result(answer.results.add(), outcome)
                yield answer

    async def ExportUsers(
        self, request: pb.ExportUsersRequest, context: Context
    ) -> AsyncIterator[pb.ExportUsersResponse]:
        after, with_hash = optional_id(request.after_user_id), request.include_password_hashes
        while page := await retry_rolled_back(partial(self._page, after), within=MESSAGE_TIMEOUT):
            users = list(
                within_size_limit(exported_user_message(one, with_hash=with_hash) for one in page)
            )
            hashes = sum(bool(one.user.password_hash) for one in users)
            audit.record(Event.USERS_EXPORTED, users=len(users), password_hashes=hashes)
            yield pb.ExportUsersResponse(users=users)
            after = page[len(users) - 1].user.id

    async def _read_batches(
        self, requests: AsyncIterator[pb.ImportUsersRequest]
    ) -> AsyncIterator[tuple[Sequence[ImportedUser | Failure], bool]]:
        """Yield the users of each request, and whether to keep them."""
        async for request in requests:
            read: list[ImportedUser | Failure] = []
            for one in imported_users(request, self._rules):
                if len(read) % _USERS_BETWEEN_YIELDS == 0:
                    await asyncio.sleep(0)
                read.append(one)
            yield read, not request.validate_only

    async def _import(
        self, imported_users: Sequence[ImportedUser], *, persist: bool
    ) -> Mapping[ImportedUser, UUID | Failure]:
        """Add users, and return the outcome for each user that was not added."""
        scope = self._database.transaction if persist else self._database.dry_run
        async with scope() as tx:
            added = await tx.imports.add(imported_users)
            await tx.imports.add_profiles(added)
            conflicting = [imported for imported in imported_users if imported not in added]
            outcomes = await tx.imports.resolve_conflicts(conflicting) if conflicting else {}
        if persist:
            ids = [str(imported.user.id) for imported in added]
            for start in range(0, len(ids), IDS_PER_EVENT):
                audit.record(Event.USERS_IMPORTED, user_ids=ids[start : start + IDS_PER_EVENT])
        return outcomes

    async def _page(self, after: UUID | None) -> Sequence[ExportedUser]:
        async with self._database.read() as db:
            return await db.exports.page(after, size=USERS_PER_MESSAGE)


async def prefetched(source: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """Yield the items of a source, and fetch the next item at the same time."""
    next_item = asyncio.ensure_future(anext(source, None))
    try:
        while (one := await next_item) is not None:
            next_item = asyncio.ensure_future(anext(source, None))
            yield one
    finally:
        next_item.cancel()
        await asyncio.gather(next_item, return_exceptions=True)
