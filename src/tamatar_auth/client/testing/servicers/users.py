"""The methods of UserService that create, read and change users."""

from collections.abc import Callable
from uuid import UUID

from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_pb2 import User, UserProfile
from tamatar_auth.client.testing.errors import RefusedError, invalid_field
from tamatar_auth.client.testing.identifiers import (
    check_password,
    normalize_email,
    normalize_password,
    normalize_username,
)
from tamatar_auth.client.testing.store import FakeStore
from tamatar_auth.client.testing.store.users import UserRecord, set_full_name

RECENT_SESSIONS = 10

_USER_FIELDS = ("email", "username", "first_name", "last_name", "avatar_url")
_PROFILE_FIELDS = tuple(UserProfile.DESCRIPTOR.fields_by_name)
_MASK_PATHS = (*_USER_FIELDS, "profile", *(f"profile.{name}" for name in _PROFILE_FIELDS))


class FakeUserMethods:
    """Creates, reads and changes users."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def CreateUser(self, request: pb.CreateUserRequest) -> pb.CreateUserResponse:
        user = User(is_active=True, email_verified=request.email_verified)
        for name in _USER_FIELDS:
            setattr(user, name, normal_value(request, name))
        profile = _normal_profile(request.profile)
        if request.password:
            check_password(request.password, "password")
        request_id = request.request_id and str(UUID(request.request_id))
        content = (user.SerializeToString(), profile.SerializeToString())
        record = self._store.users.find_created_by(request_id, content)
        if record is None:
            record = self._store.users.add(user, profile)
            record.password = normalize_password(request.password)
            record.request_id, record.request_content = request_id, content
        return pb.CreateUserResponse(user=record.user, profile=record.profile)

    def GetUser(self, request: pb.GetUserRequest) -> pb.GetUserResponse:
        matches, include_deleted = _user_matcher(request), request.include_deleted
        record = self._store.users.get_where(matches, include_deleted=include_deleted)
        answer = pb.GetUserResponse(user=record.user)
        if request.include_profile:
            answer.profile.CopyFrom(record.profile)
        if request.include_recent_sessions:
            live = [each.session for each in self._store.sessions.list_live(record.user.user_id)]
            live.sort(key=lambda session: session.last_activity_time.ToNanoseconds())
            answer.recent_sessions.extend(live[: -RECENT_SESSIONS - 1 : -1])
        return answer

    def BatchGetUsers(self, request: pb.BatchGetUsersRequest) -> pb.BatchGetUsersResponse:
        answer = pb.BatchGetUsersResponse()
        for user_id in dict.fromkeys(str(UUID(each)) for each in request.user_ids):
            try:
                answer.users.append(self._store.users.get(user_id).user)
            except RefusedError:
                answer.missing_user_ids.append(user_id)
        return answer

    def UpdateUser(self, request: pb.UpdateUserRequest) -> pb.UpdateUserResponse:
        check_etag_form(request.etag)
        paths = set(request.update_mask.paths)
        if not paths or not paths <= set(_MASK_PATHS):
            allowed = f"must name one or more of {', '.join(_MASK_PATHS)}"
            raise invalid_field("update_mask", allowed)
        values = {name: normal_value(request, name) for name in _USER_FIELDS if name in paths}
        record = get_user(self._store, request.user_id, etag=request.etag)
        change_user(self._store, record, values)
        if "email" in values:
            self._store.tokens.revoke(record.user.user_id)
        profile = _normal_profile(request.profile)
        for name in _PROFILE_FIELDS:
            if "profile" in paths or f"profile.{name}" in paths:
                setattr(record.profile, name, getattr(profile, name))
        return pb.UpdateUserResponse(user=record.user, profile=record.profile)


def get_user(store: FakeStore, user_id: str, *, etag: str = "") -> UserRecord:
    """Return a live user, or raise `RefusedError`; also if it has another etag."""
    check_etag_form(etag)
    record = store.users.get(str(UUID(user_id)))
    if etag and int(etag) != int(record.user.etag):
        raise RefusedError(ErrorReason.ETAG_MISMATCH)
    return record


def check_etag_form(etag: str) -> None:
    """Raise `RefusedError` for an etag that no user can have."""
    if etag and not (etag.isascii() and etag.isdigit() and len(etag) < 10):  # noqa: PLR2004
        raise RefusedError(ErrorReason.ETAG_MISMATCH)


def change_user(store: FakeStore, record: UserRecord, values: dict[str, str]) -> None:
    """Change fields of a user; a changed address becomes unverified. Or raise `RefusedError`."""
    before = User.FromString(record.user.SerializeToString())
    for name, value in values.items():
        setattr(record.user, name, value)
    try:
        store.users.check_unique(record)
    except RefusedError:
        record.user.CopyFrom(before)
        raise
    if record.user.email != before.email:
        record.user.email_verified = False
    set_full_name(record.user)
    store.users.record_change(record)


def normal_value(request: object, name: str) -> str:
    """Return the normal form of a field of a user, or raise `RefusedError`."""
    value: str = getattr(request, name)
    match name:
        case "email":
            return normalize_email(value)
        case "username":
            return normalize_username(value)
        case "avatar_url":
            return value
    return value.strip()


def _normal_profile(given: UserProfile) -> UserProfile:
    profile = UserProfile.FromString(given.SerializeToString())
    profile.display_name = profile.display_name.strip()
    return profile


def _user_matcher(request: pb.GetUserRequest) -> Callable[[User], bool]:
    match request.WhichOneof("identifier"):
        case "email":
            email = normalize_email(request.email)
            return lambda user: user.email == email
        case "username":
            username = normalize_username(request.username)
            return lambda user: bool(username) and user.username == username
        case _:
            user_id = str(UUID(request.user_id))
            return lambda user: user.user_id == user_id
