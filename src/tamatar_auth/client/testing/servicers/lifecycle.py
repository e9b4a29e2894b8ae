"""The methods of UserService that deactivate, activate, delete, restore and purge users."""

from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.servicers.users import change_user, get_user, normal_value
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.users import UserRecord

CALLER = "local"
"""The name of all callers, as of a real service without callers."""


class FakeLifecycleMethods:
    """Changes the state of users."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def DeactivateUser(self, request: pb.DeactivateUserRequest) -> pb.DeactivateUserResponse:
        record = get_user(self._store, request.user_id)
        ended = self._store.deactivate(record)
        return pb.DeactivateUserResponse(user=record.user, revoked_session_count=ended)

    def ActivateUser(self, request: pb.ActivateUserRequest) -> pb.ActivateUserResponse:
        record = get_user(self._store, request.user_id)
        if not record.user.is_active:
            record.user.is_active = True
            self._store.users.record_change(record)
        return pb.ActivateUserResponse(user=record.user)

    def DeleteUser(self, request: pb.DeleteUserRequest) -> pb.DeleteUserResponse:
        record = get_user(self._store, request.user_id, etag=request.etag)
        ended = self._store.delete(record, request.deleted_by or CALLER)
        return pb.DeleteUserResponse(user=record.user, revoked_session_count=ended)

    def RestoreUser(self, request: pb.RestoreUserRequest) -> pb.RestoreUserResponse:
        given = [name for name in ("email", "username") if getattr(request, name)]
        values = {name: normal_value(request, name) for name in given}
        record = self._live_or_deleted(request.user_id)
        if not record.is_deleted:
            raise RefusedError(ErrorReason.USER_NOT_DELETED)
        change_user(self._store, record, values)
        record.user.is_active, record.user.deleted_by = True, ""
        record.user.ClearField("delete_time")
        return pb.RestoreUserResponse(user=record.user)

    def PurgeUser(self, request: pb.PurgeUserRequest) -> pb.PurgeUserResponse:
        self._store.purge(self._live_or_deleted(request.user_id))
        return pb.PurgeUserResponse()

    def _live_or_deleted(self, text: str) -> UserRecord:
        user_id = str(UUID(text))
        return self._store.users.get_where(
            lambda user: user.user_id == user_id, include_deleted=True
        )
