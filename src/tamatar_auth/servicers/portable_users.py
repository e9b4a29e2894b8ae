"""Users as they come from elsewhere and go there: messages as values, and back."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid5

from uuid_utils.compat import uuid7

from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.user_service_pb2 import ExportedUser, ImportUsersRequest
from tamatar_auth.errors import FieldViolation, InvalidFields
from tamatar_auth.security.identifiers import normal_email, normal_username
from tamatar_auth.security.passwords.hasher import StoredHash
from tamatar_auth.servicers import update_masks as masks
from tamatar_auth.servicers.field_rules import Rules
from tamatar_auth.servicers.messages import profile_message, timestamp
from tamatar_auth.servicers.request_parsing import moment
from tamatar_auth.storage.repositories.profiles import ProfileRow
from tamatar_auth.storage.repositories.user_export import Departure
from tamatar_auth.storage.repositories.user_import import Arrival
from tamatar_auth.storage.repositories.users import NewUser

# Users that were imported are known again by what is made with it: it stays as it is.
_IMPORTS = UUID("0f4dd1a2-6a3b-5d0e-9c43-2f5f1c1c7d55")


def arrivals(request: ImportUsersRequest, rules: Rules) -> Iterator[Arrival | InvalidFields]:
    """Read the users of a request; one that breaks a rule is what is told of it.

    Raise `InvalidFields` when the request itself breaks one.
    """
    broken: dict[str, list[FieldViolation]] = defaultdict(list)
    for violation in rules.broken(request):
        place, _, field = violation.field.partition("].")
        if not field:
            raise InvalidFields(violation)
        broken[f"{place}]"].append(violation._replace(field=field))

    for index, user in enumerate(request.users):
        if violations := broken.get(f"users[{index}]"):
            yield InvalidFields(*violations)
            continue
        try:
            yield _arrival(user)
        except InvalidFields as refusal:
            yield refusal


def exported(departure: Departure, *, with_hash: bool) -> ExportedUser:
    """Tell of a user that leaves."""
    row, stored = departure.user, StoredHash.read(departure.password_hash)
    told = stored is not None and stored.key_id is None and with_hash
    user = PortableUser(
        user_id=str(row.id),
        email=row.email,
        username=row.username or "",
        password_hash=str(stored) if told else "",
        first_name=row.first_name or "",
        last_name=row.last_name or "",
        avatar_url=row.avatar_url or "",
        profile=profile_message(departure.profile),
        email_verified=row.email_verified,
        is_active=row.is_active,
        create_time=timestamp(row.created_at),
    )
    return ExportedUser(user=user, password_kept=departure.password_hash is not None and not told)


def _arrival(user: PortableUser) -> Arrival:
    created_at, own_id = _past(user), user.user_id and str(UUID(user.user_id))
    is_active = user.is_active if user.HasField("is_active") else True
    profile, email = masks.profile_row(user.profile), normal_email(user.email)
    new = NewUser(
        id=UUID(own_id) if own_id else uuid7(),
        email=email,
        username=masks.optional(normal_username(user.username)),
        password_hash=masks.optional(user.password_hash),
        first_name=masks.optional(user.first_name),
        last_name=masks.optional(user.last_name),
        avatar_url=masks.optional(user.avatar_url),
        email_verified=user.email_verified,
        request_id=uuid5(_IMPORTS, own_id or email),
        request_digest=_digest(user, email, profile, is_active=is_active, created_at=created_at),
    )
    return Arrival(
        user=new,
        profile=profile,
        is_active=is_active,
        created_at=created_at,
        names_its_id=bool(own_id),
    )


def _past(user: PortableUser) -> datetime | None:
    created_at = moment(user, "create_time")
    if created_at is not None and created_at > datetime.now(UTC):
        raise InvalidFields.field("create_time", "must be in the past")
    return created_at


def _digest(
    user: PortableUser,
    email: str,
    profile: ProfileRow,
    *,
    is_active: bool,
    created_at: datetime | None,
) -> bytes:
    """Give what stands for the content, however it was written. It stays as it is, too."""
    said = (
        *(email, user.username.lower(), user.password_hash, user.first_name, user.last_name),
        *(user.avatar_url, *profile),
        *(user.email_verified, is_active, created_at and created_at.isoformat()),
    )
    return hashlib.sha256(json.dumps(said).encode()).digest()
