"""Messages built from rows.

Submessages are filled in place, because protobuf copies a message that is assigned.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from math import floor
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import Factor, FactorKind
from tamatar.auth.v1.session_pb2 import AssuranceLevel, Session
from tamatar.auth.v1.session_service_pb2 import (
    BatchValidateSessionsResponse,
    ValidateSessionResponse,
    WatchSessionsResponse,
)
from tamatar.auth.v1.user_pb2 import User, UserProfile
from tamatar.auth.v1.user_service_pb2 import ImportOutcome, ImportResult
from tamatar_auth.errors import Failure
from tamatar_auth.security.assurance import Level, Methods
from tamatar_auth.storage.repositories.factors import FactorKind as StoredKind
from tamatar_auth.storage.repositories.factors import FactorRow
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.sessions import SessionRow
from tamatar_auth.storage.repositories.user_import import ImportedUser
from tamatar_auth.storage.repositories.users import UserRow
from tamatar_auth.storage.session_events.listener import SessionEnd
from tamatar_auth.storage.session_validation.statement import ValidatedRow

_MICROSECONDS_PER_SECOND, _POSTGRESQL_EPOCH = 1_000_000, 946_684_800
"""Microseconds in a second, and seconds from 1970 to PostgreSQL's epoch, 2000-01-01."""

_REASONS: Mapping[str, ErrorReason.ValueType] = dict(ErrorReason.items())

_LEVELS: Mapping[Level, AssuranceLevel.ValueType] = {
    Level.AAL1: AssuranceLevel.ASSURANCE_LEVEL_AAL1,
    Level.AAL2: AssuranceLevel.ASSURANCE_LEVEL_AAL2,
}


FACTOR_KINDS: Mapping[str, FactorKind.ValueType] = {
    StoredKind.TOTP: FactorKind.FACTOR_KIND_TOTP,
    StoredKind.RECOVERY_CODES: FactorKind.FACTOR_KIND_RECOVERY_CODES,
    StoredKind.PASSKEY: FactorKind.FACTOR_KIND_PASSKEY,
}


def user_message(row: UserRow) -> User:
    """Build the message of a user."""
    # fmt: off
    (user_id, email, username, first_name, last_name, full_name, avatar_url, email_verified,
     is_active, version, created_at, updated_at, last_login_at, deleted_at, deleted_by) = row
    # fmt: on
    message = User()
    message.user_id = str(user_id)
    message.email = email
    message.username = username or ""
    message.first_name = first_name or ""
    message.last_name = last_name or ""
    message.full_name = full_name
    message.avatar_url = avatar_url or ""
    message.email_verified = email_verified
    message.is_active = is_active
    _write_time(message.create_time, created_at)
    _write_time(message.update_time, updated_at)
    if last_login_at is not None:
        _write_time(message.last_login_time, last_login_at)
    if deleted_at is not None:
        _write_time(message.delete_time, deleted_at)
    message.deleted_by = deleted_by or ""
    message.etag = str(version)
    return message


def profile_message(row: ProfileRow) -> UserProfile:
    """Build the message of a profile."""
    return UserProfile(
        display_name=row.display_name or "",
        bio=row.bio or "",
        locale=row.locale or "",
        time_zone=row.time_zone or "",
    )


def session_message(row: SessionRow) -> Session:
    """Build the message of a session."""
    message = Session()
    message.session_id = str(row.id)
    message.user_id = str(row.user_id)
    _write_time(message.create_time, row.created_at)
    _write_time(message.expire_time, row.expires_at)
    _write_time(message.last_activity_time, row.last_activity_at)
    if row.revoked_at is not None:
        _write_time(message.revoke_time, row.revoked_at)
    message.client.user_agent = row.user_agent or ""
    message.client.ip_address = row.ip_address or ""
    _write_time(message.authenticate_time, row.authenticated_at)
    _write_methods(message, row.authentication_methods)
    return message


def factor_message(row: FactorRow) -> Factor:
    """Build the message of a factor."""
    message = Factor(
        factor_id=str(row.id),
        user_id=str(row.user_id),
        kind=FACTOR_KINDS[row.kind],
        label=row.label,
        create_time=timestamp(row.created_at),
        confirm_time=timestamp(row.confirmed_at),
        last_use_time=timestamp(row.last_used_at),
        remaining_code_count=row.remaining_codes,
    )
    if row.kind == StoredKind.PASSKEY:
        message.passkey.aaguid = str(row.aaguid or "")
        message.passkey.backup_eligible = row.is_backup_eligible
        message.passkey.backed_up = row.is_backed_up
        message.passkey.transports.extend(row.transports.split())
    return message


def validated_message(row: ValidatedRow) -> ValidateSessionResponse:
    """Build the response for a valid session."""
    message = ValidateSessionResponse()
    _write_validated(message.session, message.user, row)
    return message


def validations_message(results: Iterable[ValidatedRow | Failure]) -> BatchValidateSessionsResponse:
    """Build the response for several sessions, valid or refused."""
    message = BatchValidateSessionsResponse()
    for result in results:
        validation = message.results.add()
        if isinstance(result, Failure):
            validation.refusal = _REASONS[result.reason]
        else:
            _write_validated(validation.session, validation.user, result)
    return message


def ends_message(ends: Iterable[SessionEnd] = ()) -> WatchSessionsResponse:
    """Build the message of ended sessions."""
    message = WatchSessionsResponse()
    for user_id, session_id in ends:
        message.ends.add(user_id=str(user_id), session_id=str(session_id or ""))
    return message


def write_import_result(result: ImportResult, outcome: ImportedUser | UUID | Failure) -> None:
    """Write the outcome of an imported user: created, existing or refused."""
    if isinstance(outcome, Failure):
        result.outcome = ImportOutcome.IMPORT_OUTCOME_REFUSED
        result.reason = _REASONS[outcome.reason]
        for field, description in outcome.violations:
            result.broken_rules.add(field=field, description=description)
    elif isinstance(outcome, UUID):
        result.outcome = ImportOutcome.IMPORT_OUTCOME_EXISTS
        result.user_id = str(outcome)
    else:
        result.outcome = ImportOutcome.IMPORT_OUTCOME_CREATED
        result.user_id = str(outcome.user.id)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Build a timestamp with microseconds; None stays None."""
    if moment is None:
        return None
    message = Timestamp()
    _write_time(message, moment)
    return message


def _write_time(message: Timestamp, moment: datetime) -> None:
    # The timestamp of whole seconds, because a float rounds the fraction of distant times up.
    message.seconds = floor(moment.replace(microsecond=0).timestamp())
    message.nanos = moment.microsecond * 1000


def _write_methods(session: Session, text: str) -> None:
    session.assurance_level, words = _level_and_words(text)
    session.authentication_methods.extend(words)


@lru_cache(maxsize=256)
def _level_and_words(text: str) -> tuple[AssuranceLevel.ValueType, Sequence[str]]:
    """Return how strongly and how a user was authenticated. Sessions have a few different texts."""
    methods = Methods.parse(text)
    return _LEVELS[methods.level], methods.words


def _write_validated(session: Session, user: User, row: ValidatedRow) -> None:
    """Write a valid session and its user. Smaller functions would take a quarter longer."""
    # fmt: off
    (session_id, user_id, created_at, expires_at, last_activity_at, user_agent, ip_address,
     email, username, first_name, last_name, full_name, avatar_url, email_verified, version,
     user_created_at, updated_at, last_login_at, authenticated_at, methods, _, _, _) = row
    # fmt: on
    session.session_id = session_id
    session.user_id = user.user_id = user_id
    for moment, microseconds in (
        (session.create_time, created_at),
        (session.expire_time, expires_at),
        (session.last_activity_time, last_activity_at),
        (session.authenticate_time, authenticated_at),
        (user.create_time, user_created_at),
        (user.update_time, updated_at),
    ):
        seconds, rest = divmod(microseconds, _MICROSECONDS_PER_SECOND)
        moment.seconds, moment.nanos = seconds + _POSTGRESQL_EPOCH, rest * 1000
    client = session.client
    client.user_agent = user_agent or ""
    client.ip_address = ip_address or ""
    _write_methods(session, methods)

    user.email = email
    user.full_name = full_name
    user.username = username or ""
    user.first_name = first_name or ""
    user.last_name = last_name or ""
    user.avatar_url = avatar_url or ""
    user.email_verified = email_verified
    user.is_active = True
    if last_login_at is not None:
        seconds, rest = divmod(last_login_at, _MICROSECONDS_PER_SECOND)
        moment = user.last_login_time
        moment.seconds, moment.nanos = seconds + _POSTGRESQL_EPOCH, rest * 1000
    user.etag = str(version)
