"""Rows as messages: the one place that builds them.

A message that becomes part of another one is written in its place: protobuf would copy it.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from math import floor
from typing import Any, TypeAlias
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
from tamatar_auth.storage.sessions import SessionRow
from tamatar_auth.storage.users import UserRow
from tamatar_auth.storage.validated import SESSION_ENDS, USER_ENDS, ValidatedRow
from tamatar_auth.storage.watchers import SessionEnd

_SINCE_1970 = 946_684_800
"""Seconds until 2000-01-01, since when PostgreSQL counts."""


def user_message(row: UserRow) -> User:
    """Tell of a user."""
    return _write_user(User(), row, _tell)


def profile_message(row: ProfileRow) -> UserProfile:
    """Tell what a user says of itself."""
    return UserProfile(
        display_name=row.display_name or "",
        bio=row.bio or "",
        locale=row.locale or "",
        time_zone=row.time_zone or "",
    )


def session_message(row: SessionRow) -> Session:
    """Tell of a session."""
    return _write_session(Session(), row, _tell)


def validated_message(row: ValidatedRow) -> ValidateSessionResponse:
    """Tell whose session it is."""
    told = ValidateSessionResponse()
    _write_validated(told.session, told.user, row)
    return told


def validations_message(results: Iterable[ValidatedRow | Failure]) -> BatchValidateSessionsResponse:
    """Tell what was found out about several sessions."""
    told = BatchValidateSessionsResponse()
    for result in results:
        validation = told.results.add()
        if isinstance(result, Failure):
            validation.refusal = result.reason
        else:
            _write_validated(validation.session, validation.user, result)
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


Tell: TypeAlias = Callable[[Timestamp, Any], None]
"""Writes a moment into a message."""


def _tell(message: Timestamp, moment: datetime) -> None:
    # Of whole seconds: with a fraction, those of far moments would be rounded up.
    message.seconds = floor(moment.replace(microsecond=0).timestamp())
    message.nanos = moment.microsecond * 1000


def _tell_number(message: Timestamp, microseconds: int) -> None:
    """Write a moment that PostgreSQL gave as a number."""
    seconds, rest = divmod(microseconds, 1_000_000)
    message.seconds = seconds + _SINCE_1970
    message.nanos = rest * 1000


def _write_validated(session: Session, user: User, row: ValidatedRow) -> None:
    _write_session(session, row[:SESSION_ENDS], _tell_number)
    _write_user(user, row[SESSION_ENDS:USER_ENDS], _tell_number)


def _write_session(told: Session, row: Sequence[Any], tell: Tell) -> Session:
    """Write a `SessionRow`, or the same columns as validation reads them, into a message."""
    # fmt: off
    (session_id, user_id, created_at, expires_at, last_activity_at, revoked_at,
     user_agent, ip_address) = row
    # fmt: on
    told.session_id = str(session_id)
    told.user_id = str(user_id)
    tell(told.create_time, created_at)
    tell(told.expire_time, expires_at)
    tell(told.last_activity_time, last_activity_at)
    if revoked_at is not None:
        tell(told.revoke_time, revoked_at)
    client = told.client
    client.user_agent = user_agent or ""
    client.ip_address = ip_address or ""
    return told


def _write_user(told: User, row: Sequence[Any], tell: Tell) -> User:
    """Write a `UserRow`, or the same columns as validation reads them, into a message."""
    # fmt: off
    (user_id, email, username, first_name, last_name, full_name, avatar_url, email_verified,
     is_active, version, created_at, updated_at, last_login_at, deleted_at, deleted_by) = row
    # fmt: on
    told.user_id = str(user_id)
    told.email = email
    told.full_name = full_name
    if username:
        told.username = username
    if first_name:
        told.first_name = first_name
    if last_name:
        told.last_name = last_name
    if avatar_url:
        told.avatar_url = avatar_url
    told.email_verified = email_verified
    told.is_active = is_active
    tell(told.create_time, created_at)
    tell(told.update_time, updated_at)
    if last_login_at is not None:
        tell(told.last_login_time, last_login_at)
    if deleted_at is not None:
        tell(told.delete_time, deleted_at)
    if deleted_by:
        told.deleted_by = deleted_by
    told.etag = str(version)
    return told
