"""Rows as messages: the one place that builds them.

A message that becomes part of another one is written in its place: protobuf would copy it.
"""

from collections.abc import Iterable
from datetime import datetime
from math import floor
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.session_pb2 import Session
from tamatar.auth.v1.session_service_pb2 import (
    BatchValidateSessionsResponse,
    ValidateSessionResponse,
    WatchSessionsResponse,
)
from tamatar.auth.v1.user_pb2 import User, UserProfile
from tamatar.auth.v1.user_service_pb2 import ImportOutcome, ImportResult
from tamatar_auth.errors import Failure
from tamatar_auth.storage.imports import Arrival
from tamatar_auth.storage.profiles import ProfileRow
from tamatar_auth.storage.sessions import SessionRow, ValidSession
from tamatar_auth.storage.users import UserRow
from tamatar_auth.storage.watchers import SessionEnd


def user_message(row: UserRow, message: User | None = None) -> User:
    """Tell of a user, in the message that is given or a new one."""
    told = User() if message is None else message
    told.user_id = str(row.id)
    told.email = row.email
    told.full_name = row.full_name
    if row.username:
        told.username = row.username
    if row.first_name:
        told.first_name = row.first_name
    if row.last_name:
        told.last_name = row.last_name
    if row.avatar_url:
        told.avatar_url = row.avatar_url
    told.email_verified = row.email_verified
    told.is_active = row.is_active
    _tell(told.create_time, row.created_at)
    _tell(told.update_time, row.updated_at)
    if row.last_login_at is not None:
        _tell(told.last_login_time, row.last_login_at)
    if row.deleted_at is not None:
        _tell(told.delete_time, row.deleted_at)
    if row.deleted_by:
        told.deleted_by = row.deleted_by
    told.etag = str(row.version)
    return told


def profile_message(row: ProfileRow) -> UserProfile:
    """Tell what a user says of itself."""
    return UserProfile(
        display_name=row.display_name or "",
        bio=row.bio or "",
        locale=row.locale or "",
        time_zone=row.time_zone or "",
    )


def session_message(row: SessionRow, message: Session | None = None) -> Session:
    """Tell of a session, in the message that is given or a new one."""
    told = Session() if message is None else message
    told.session_id = str(row.id)
    told.user_id = str(row.user_id)
    _tell(told.create_time, row.created_at)
    _tell(told.expire_time, row.expires_at)
    _tell(told.last_activity_time, row.last_activity_at)
    if row.revoked_at is not None:
        _tell(told.revoke_time, row.revoked_at)
    client = told.client
    client.user_agent = row.user_agent or ""
    client.ip_address = row.ip_address or ""
    return told


def validated_message(valid: ValidSession) -> ValidateSessionResponse:
    """Tell whose session it is."""
    told = ValidateSessionResponse()
    session_message(valid.session, told.session)
    user_message(valid.user, told.user)
    return told


def validations_message(results: Iterable[ValidSession | Failure]) -> BatchValidateSessionsResponse:
    """Tell what was found out about several sessions."""
    told = BatchValidateSessionsResponse()
    for result in results:
        validation = told.results.add()
        if isinstance(result, Failure):
            validation.refusal = result.reason
        else:
            session_message(result.session, validation.session)
            user_message(result.user, validation.user)
    return told


def ends_message(ends: Iterable[SessionEnd] = ()) -> WatchSessionsResponse:
    """Tell which sessions ended."""
    told = WatchSessionsResponse()
    for user_id, session_id in ends:
        told.ends.add(user_id=str(user_id), session_id=str(session_id or ""))
    return told


def import_result(result: ImportResult, what: Arrival | UUID | Failure) -> None:
    """Tell what became of a user that was to be imported: it is new, it was there, or why not."""
    if isinstance(what, Failure):
        result.outcome = ImportOutcome.IMPORT_OUTCOME_REFUSED
        result.reason = what.reason
        for field, description in what.violations:
            result.broken_rules.add(field=field, description=description)
    elif isinstance(what, UUID):
        result.outcome = ImportOutcome.IMPORT_OUTCOME_EXISTS
        result.user_id = str(what)
    else:
        result.outcome = ImportOutcome.IMPORT_OUTCOME_CREATED
        result.user_id = str(what.user.id)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Give a moment as a message, to the microsecond; None stays None."""
    if moment is None:
        return None
    told = Timestamp()
    _tell(told, moment)
    return told


def _tell(message: Timestamp, moment: datetime) -> None:
    message.seconds = floor(moment.timestamp())
    message.nanos = moment.microsecond * 1000
