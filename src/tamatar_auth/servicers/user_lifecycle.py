"""The methods of UserService that deactivate, activate, delete, restore and purge users."""

from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.callers import caller_name
from tamatar_auth.servicers import Context, update_masks
from tamatar_auth.servicers.messages import user_message
from tamatar_auth.servicers.request_parsing import version_of
from tamatar_auth.storage.database import Database


class LifecycleMethods:
    """Changes the state of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def DeactivateUser(
        self, request: pb.DeactivateUserRequest, context: Context
    ) -> pb.DeactivateUserResponse:
        user_id = UUID(request.user_id)
        async with self._database.transaction() as tx:
            user = await tx.users.set_active(user_id, active=False)
            ended = await tx.sessions.revoke_of_user(user_id)
            await tx.user_tokens.revoke(user_id)
            await tx.challenges.delete_of_user(user_id)
        audit.record(Event.USER_DEACTIVATED, user_id=user.id, revoked_sessions=ended)
        return pb.DeactivateUserResponse(user=user_message(user), revoked_session_count=ended)

    async def ActivateUser(
        self, request: pb.ActivateUserRequest, context: Context
    ) -> pb.ActivateUserResponse:
        async with self._database.transaction() as tx:
            user = await tx.users.set_active(UUID(request.user_id), active=True)
        audit.record(Event.USER_ACTIVATED, user_id=user.id)
        return pb.ActivateUserResponse(user=user_message(user))

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        user_id, version = UUID(request.user_id), version_of(request.etag)
        deleted_by = request.deleted_by or caller_name()
        async with self._database.transaction() as tx:
            # The user first: a sign-in that has locked the row commits its session before the
            # next statement runs, and a sign-in that waits for the row then finds no user.
            user = await tx.users.delete(user_id, deleted_by=deleted_by, version=version)
            ended = await tx.sessions.revoke_of_user(user_id)
            await tx.user_tokens.revoke(user_id)
            await tx.challenges.delete_of_user(user_id)
        audit.record(Event.USER_DELETED, user_id=user.id, revoked_sessions=ended)
        return pb.DeleteUserResponse(user=user_message(user), revoked_session_count=ended)

    async def RestoreUser(
        self, request: pb.RestoreUserRequest, context: Context
    ) -> pb.RestoreUserResponse:
        changes = update_masks.restored_columns(request)
        async with self._database.transaction() as tx:
            user = await tx.users.restore(UUID(request.user_id), changes)
        audit.record(Event.USER_RESTORED, user_id=user.id)
        if "email" in changes:
            audit.record(Event.EMAIL_CHANGED, user_id=user.id)
        return pb.RestoreUserResponse(user=user_message(user))

    async def PurgeUser(
        self, request: pb.PurgeUserRequest, context: Context
    ) -> pb.PurgeUserResponse:
        user_id = UUID(request.user_id)
        async with self._database.transaction() as tx:
            await tx.users.purge(user_id)
        audit.record(Event.USER_PURGED, user_id=user_id)
        return pb.PurgeUserResponse()
