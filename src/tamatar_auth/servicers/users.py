"""UserService. The comments of the proto document its methods."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from uuid_utils.compat import uuid7

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.user_service_pb2_grpc import UserServiceServicer
from tamatar_auth.config.lifetimes import UserTokenSettings
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.callers import Role, require_role
from tamatar_auth.security.identifiers import normalize_email, normalize_username
from tamatar_auth.security.passwords.hasher import PasswordHasher
from tamatar_auth.security.passwords.policy import PasswordPolicy
from tamatar_auth.servicers import Context, update_masks
from tamatar_auth.servicers.bulk_users import BulkUserMethods
from tamatar_auth.servicers.messages import (
    profile_message,
    session_message,
    timestamp,
    user_message,
)
from tamatar_auth.servicers.page_tokens import PageQuery, PageTokens, page_size, within_size_limit
from tamatar_auth.servicers.request_parsing import user_filter, user_order, version_of
from tamatar_auth.servicers.user_credentials import CredentialMethods
from tamatar_auth.servicers.user_lifecycle import LifecycleMethods
from tamatar_auth.storage.database import Database, Scope
from tamatar_auth.storage.repositories import KeysetCursor
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.user_filters import Deleted, UserOrder
from tamatar_auth.storage.repositories.user_pages import UserPage
from tamatar_auth.storage.repositories.users import NewUser, UserRepository, UserRow

RECENT_SESSIONS = 10


class UserServicer(CredentialMethods, LifecycleMethods, BulkUserMethods, UserServiceServicer):
    """The servicer of UserService."""

    def __init__(
        self,
        database: Database,
        passwords: PasswordHasher,
        policy: PasswordPolicy,
        page_tokens: PageTokens,
        lifetimes: UserTokenSettings,
    ) -> None:
        CredentialMethods.__init__(self, database, passwords, policy, lifetimes)
        LifecycleMethods.__init__(self, database)
        BulkUserMethods.__init__(self, database)
        self._page_tokens = page_tokens

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: Context
    ) -> pb.CreateUserResponse:
        if request.email_verified:
            require_role(Role.ADMIN)
        new = await self._with_hash(_new_user(request), request.password)
        async with self._database.transaction() as tx:
            user = await _find_created(tx, new)
            if user is None:
                user = await tx.users.add(new)
                profile = await tx.profiles.add(user.id, update_masks.profile_row(request.profile))
            else:
                profile = await tx.profiles.get(user.id)
        if user.id == new.id:  # else an earlier call with this request id created it
            audit.record(Event.USER_CREATED, user_id=user.id)
        return pb.CreateUserResponse(user=user_message(user), profile=profile_message(profile))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        get, value = _lookup(request)
        deleted = Deleted.INCLUDE if request.include_deleted else Deleted.EXCLUDE
        needs_snapshot = request.include_profile or request.include_recent_sessions
        scope = self._database.snapshot if needs_snapshot else self._database.read
        async with scope() as db:
            user = await get(db.users, value, deleted=deleted)
            answer = pb.GetUserResponse(user=user_message(user))
            if request.include_profile:
                answer.profile.CopyFrom(profile_message(await db.profiles.get(user.id)))
            if request.include_recent_sessions:
                recent = await db.sessions.recent(user.id, limit=RECENT_SESSIONS)
                answer.recent_sessions.extend(session_message(row) for row in recent)
        return answer

    async def BatchGetUsers(
        self, request: pb.BatchGetUsersRequest, context: Context
    ) -> pb.BatchGetUsersResponse:
        wanted = dict.fromkeys(UUID(user_id) for user_id in request.user_ids)
        async with self._database.read() as db:
            found = await db.users.find_many(list(wanted))
        return pb.BatchGetUsersResponse(
            users=[user_message(found[user_id]) for user_id in wanted if user_id in found],
            missing_user_ids=[str(user_id) for user_id in wanted if user_id not in found],
        )

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: Context
    ) -> pb.ListUsersResponse:
        matching, order = user_filter(request.filter), user_order(request.order_by)
        size = page_size(request.page_size)
        query = PageQuery("ListUsers", f"{order.column} {order.descending}", request.filter)
        after = self._page_tokens.read(query, request.page_token)
        total = None
        scope = self._database.snapshot if request.include_total else self._database.read
        async with scope() as db:
            page = await db.user_lists.page(matching, order, size=size + 1, after=after)
            if request.include_total:
                total = await db.user_lists.count(matching)
        answer = pb.ListUsersResponse()
        if total is not None:
            answer.total_size, answer.total_size_is_estimate = total
        answer.users.extend(within_size_limit(map(user_message, page.rows[:size])))
        if cursor := _cursor_after(page, len(answer.users), order):
            answer.next_page_token = self._page_tokens.issue(query, cursor)
        return answer

    async def GetUserStats(
        self, request: pb.GetUserStatsRequest, context: Context
    ) -> pb.GetUserStatsResponse:
        matching = user_filter(request.filter)
        async with self._database.snapshot() as db:
            stats = await db.user_lists.stats(matching)
        return pb.GetUserStatsResponse(
            user_count=stats.total.number,
            user_count_is_estimate=stats.total.is_estimate,
            first_create_time=timestamp(stats.first_created_at),
            last_create_time=timestamp(stats.last_created_at),
        )

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: Context
    ) -> pb.UpdateUserResponse:
        user_id, version = UUID(request.user_id), version_of(request.etag)
        changes = update_masks.changes(request)
        async with self._database.transaction() as tx:
            user = await tx.users.update(user_id, changes.user, version=version)
            if "email" in changes.user:
                await tx.user_tokens.revoke(user_id)
            if changes.profile:
                profile = await tx.profiles.update(user_id, changes.profile)
            else:
                profile = await tx.profiles.get(user_id)
        if "email" in changes.user:
            audit.record(Event.EMAIL_CHANGED, user_id=user.id)
        return pb.UpdateUserResponse(user=user_message(user), profile=profile_message(profile))

    async def _with_hash(self, new: NewUser, password: str) -> NewUser:
        """Check and hash the password of a new user, if it has one, without a connection."""
        if not password:
            return new
        self._policy.check(password, names=_names(new))
        async with self._passwords.permit() as permit:
            return replace(new, password_hash=await permit.hash(password))


def _cursor_after(page: UserPage, shown: int, order: UserOrder) -> KeysetCursor | None:
    """Return where the page after the first `shown` users of a page begins, or None at the end."""
    if len(page.rows) == shown:
        return page.resume_after
    last = page.rows[shown - 1]
    return KeysetCursor(getattr(last, order.column), last.id)


def _names(new: NewUser) -> Sequence[str]:
    names = (new.email, new.username, new.first_name, new.last_name)
    full_name = f"{new.first_name or ''} {new.last_name or ''}".strip()
    return [name for name in (*names, full_name) if name]


def _new_user(request: pb.CreateUserRequest) -> NewUser:
    new = NewUser(
        id=uuid7(),
        email=normalize_email(request.email),
        username=normalize_username(request.username) or None,
        first_name=request.first_name.strip() or None,
        last_name=request.last_name.strip() or None,
        avatar_url=request.avatar_url or None,
        email_verified=request.email_verified,
    )
    if not request.request_id:
        return new
    digest = _digest(new, update_masks.profile_row(request.profile))
    return replace(new, request_id=UUID(request.request_id), request_digest=digest)


def _digest(new: NewUser, profile: ProfileRow) -> bytes:
    """Return a digest of a request's content, equal for equal content in any notation.

    It leaves out the password, because the digest would be a fast hash of it.
    """
    names = (new.email, new.username, new.first_name, new.last_name, new.avatar_url)
    # Only a verified address adds a value, so that stored digests stay the same.
    content = (*names, *profile, *([True] if new.email_verified else []))
    return hashlib.sha256(json.dumps(content).encode()).digest()


async def _find_created(tx: Scope, new: NewUser) -> UserRow | None:
    if new.request_id is None or new.request_digest is None:
        return None
    return await tx.users.find_created_by(new.request_id, new.request_digest)


def _lookup(request: pb.GetUserRequest) -> tuple[Callable[..., Awaitable[UserRow]], object]:
    """Return the repository's method for the identifier of a request, and its value."""
    match request.WhichOneof("identifier"):
        case "email":
            return UserRepository.get_by_email, normalize_email(request.email)
        case "username":
            return UserRepository.get_by_username, normalize_username(request.username)
        case _:
            return UserRepository.get, UUID(request.user_id)
