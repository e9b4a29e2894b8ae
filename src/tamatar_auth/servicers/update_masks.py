"""Update masks: the columns that a request changes, and their new values."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tamatar.auth.v1.user_pb2 import UserProfile
from tamatar.auth.v1.user_service_pb2 import RestoreUserRequest, UpdateUserRequest
from tamatar_auth.errors import InvalidFields
from tamatar_auth.security.identifiers import normalize_email, normalize_username
from tamatar_auth.storage.repositories.profiles import ProfileRow

_PROFILE = "profile"

Reader = Callable[[Any], str | None]


class Changes(NamedTuple):
    """Columns to change, with their new values."""

    user: dict[str, str | None]
    profile: dict[str, str | None]


_USER_FIELDS: dict[str, Reader] = {
    "email": lambda request: normalize_email(request.email),
    "username": lambda request: normalize_username(request.username) or None,
    "first_name": lambda request: request.first_name.strip() or None,
    "last_name": lambda request: request.last_name.strip() or None,
    "avatar_url": lambda request: request.avatar_url or None,
}

_ALLOWED = (*_USER_FIELDS, _PROFILE, *(f"{_PROFILE}.{name}" for name in ProfileRow._fields))


def changes(request: UpdateUserRequest) -> Changes:
    """Return the changes of the fields in the mask, or raise `InvalidFields`."""
    paths = set(request.update_mask.paths)
    if not paths or not paths <= set(_ALLOWED):
        raise InvalidFields.field("update_mask", f"must name one or more of {', '.join(_ALLOWED)}")
    profile = profile_row(request.profile)._asdict()
    return Changes(
        user={name: read(request) for name, read in _USER_FIELDS.items() if name in paths},
        profile={
            name: value
            for name, value in profile.items()
            if _PROFILE in paths or f"{_PROFILE}.{name}" in paths
        },
    )


def restored_columns(request: RestoreUserRequest) -> dict[str, str | None]:
    """Return the new address and username of a restored user, if the request has them."""
    return {
        name: _USER_FIELDS[name](request)
        for name in ("email", "username")
        if getattr(request, name)
    }


def profile_row(message: UserProfile) -> ProfileRow:
    """Return the row of a profile. White space around the name to show is dropped."""
    row = ProfileRow._make(getattr(message, name) or None for name in ProfileRow._fields)
    return row._replace(display_name=message.display_name.strip() or None)
