"""Imported and exported users: conversions between messages and rows."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_service_pb2 import ExportedUser as ExportedUserMessage
from tamatar.auth.v1.user_service_pb2 import ImportUsersRequest
from tamatar_auth.errors import FieldViolation, InvalidFields
from tamatar_auth.security.identifiers import normalize_email, normalize_username
from tamatar_auth.security.passwords.hasher import StoredHash
from tamatar_auth.servicers import update_masks
from tamatar_auth.servicers.field_rules import FieldRules
from tamatar_auth.servicers.messages import profile_message, timestamp
from tamatar_auth.servicers.request_parsing import optional_time
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.user_export import ExportedUser
from tamatar_auth.storage.repositories.user_import import ImportedUser
from tamatar_auth.storage.repositories.users import NewUser

# Never change it: request ids of imported users are derived with it.
_IMPORT_NAMESPACE = UUID("0f4dd1a2-6a3b-5d0e-9c43-2f5f1c1c7d55")


def imported_users(
    request: ImportUsersRequest, rules: FieldRules
) -> Iterator[ImportedUser | InvalidFields]:
    """Yield the users of a request, or `InvalidFields` for a user that breaks a rule.

    Raise `InvalidFields` if the request itself breaks a rule.
    """
    broken_rules: dict[str, list[FieldViolation]] = defaultdict(list)
    for violation in rules.broken_rules(request):
        place, _, field = violation.field.partition("].")
        if not field:
            raise InvalidFields(violation)
        broken_rules[f"{place}]"].append(violation._replace(field=field))

    for index, user in enumerate(request.users):
        if violations := broken_rules.get(f"users[{index}]"):
            yield InvalidFields(*violations)
            continue
        try:
            yield _imported_user(user)
        except InvalidFields as failure:
            yield failure


def exported_user_message(exported: ExportedUser, *, with_hash: bool) -> ExportedUserMessage:
    """Build the message of an exported user."""
    row, stored = exported.user, StoredHash.read(exported.password_hash)
    includes_hash = stored is not None and stored.key_id is None and with_hash
    user = PortableUser(
        user_id=str(row.id),
        email=row.email,
        username=row.username or "",
        password_hash=str(stored) if includes_hash else "",
        first_name=row.first_name or "",
        last_name=row.last_name or "",
        avatar_url=row.avatar_url or "",
        profile=profile_message(exported.profile),
        email_verified=row.email_verified,
        is_active=row.is_active,
        create_time=timestamp(row.created_at),
    )
    return ExportedUserMessage(
        user=user, password_kept=exported.password_hash is not None and not includes_hash
    )


def _imported_user(user: PortableUser) -> ImportedUser:
    created_at, given_id = _past_create_time(user), user.user_id and str(UUID(user.user_id))
    is_active = user.is_active if user.HasField("is_active") else True
    profile, email = update_masks.profile_row(user.profile), normalize_email(user.email)
    new = NewUser(
        id=UUID(given_id) if given_id else uuid7(),
        email=email,
        username=normalize_username(user.username) or None,
        password_hash=user.password_hash or None,
        first_name=user.first_name.strip() or None,
        last_name=user.last_name.strip() or None,
        avatar_url=user.avatar_url or None,
        email_verified=user.email_verified,
        request_id=uuid5(_IMPORT_NAMESPACE, given_id or email),
        request_digest=_digest(user, email, is_active=is_active, created_at=created_at),
    )
    return ImportedUser(
        user=new,
        profile=profile,
        is_active=is_active,
        created_at=created_at,
        has_given_id=bool(given_id),
    )


def _past_create_time(user: PortableUser) -> datetime | None:
    created_at = optional_time(user, "create_time")
    if created_at is not None and created_at > datetime.now(UTC):
        raise InvalidFields.field("create_time", "must be in the past")
    return created_at


def _digest(
    user: PortableUser,
    email: str,
    *,
    is_active: bool,
    created_at: datetime | None,
) -> bytes:
    """Return the digest of a user's content. Never change it: repeated imports compare it."""
    profile = [getattr(user.profile, name) or None for name in ProfileRow._fields]
    content = (
        *(
            email,
            normalize_username(user.username),
            user.password_hash,
            user.first_name,
            user.last_name,
        ),
        *(user.avatar_url, *profile),
        *(user.email_verified, is_active, created_at and created_at.isoformat()),
    )
    return hashlib.sha256(json.dumps(content).encode()).digest()
