"""Rows as messages: the one place that builds them."""

from datetime import datetime
from math import floor

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.session_pb2 import Session, SessionClient
from tamatar.auth.v1.session_service_pb2 import SessionValidation
from tamatar.auth.v1.user_pb2 import User, UserProfile
from tamatar_auth.errors import Failure
from tamatar_auth.storage.profiles import ProfileRow
from tamatar_auth.storage.sessions import SessionRow, ValidSession
from tamatar_auth.storage.users import UserRow


def user_message(row: UserRow) -> User:
    """Tell of a user."""
    return User(
        user_id=str(row.id),
        email=row.email,
        username=row.username or "",
        first_name=row.first_name or "",
        last_name=row.last_name or "",
        full_name=row.full_name,
        avatar_url=row.avatar_url or "",
        email_verified=row.email_verified,
        is_active=row.is_active,
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
        last_login_time=timestamp(row.last_login_at),
        delete_time=timestamp(row.deleted_at),
        deleted_by=row.deleted_by or "",
        etag=str(row.version),
    )


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
    return Session(
        session_id=str(row.id),
        user_id=str(row.user_id),
        create_time=timestamp(row.created_at),
        expire_time=timestamp(row.expires_at),
        last_activity_time=timestamp(row.last_activity_at),
        revoke_time=timestamp(row.revoked_at),
        client=SessionClient(
            user_agent=row.user_agent or "",
            ip_address=row.ip_address or "",
        ),
    )


def validation_message(result: ValidSession | Failure) -> SessionValidation:
    """Tell what was found out about a session."""
    if isinstance(result, Failure):
        return SessionValidation(refusal=result.reason)
    return SessionValidation(
        session=session_message(result.session), user=user_message(result.user)
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Give a moment as a message, to the microsecond; None stays None."""
    if moment is None:
        return None
    return Timestamp(seconds=floor(moment.timestamp()), nanos=moment.microsecond * 1000)
