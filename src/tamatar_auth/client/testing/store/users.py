"""Users: their records, and how they are found and changed."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_pb2 import User, UserProfile
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.identifiers import normalize_password
from tamatar_auth.client.testing.store.clock import Clock


@dataclass(kw_only=True)
class UserRecord:
    """A user, live or deleted."""

    user: User
    profile: UserProfile
    number: int
    """The place among all users, which decides between equals in a list."""
    password: str = field(default="", repr=False)
    request_id: str = ""
    request_content: object = None

    @property
    def is_deleted(self) -> bool:
        """Whether the user is deleted."""
        return self.user.HasField("delete_time")

    def has_password(self, password: str) -> bool:
        """Return whether a password is right, and the user may use it."""
        is_right = bool(self.password) and self.password == normalize_password(password)
        return is_right and self.user.is_active


class Users:
    """The users of the fake service."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, UserRecord] = {}
        self._numbers = count()

    def __iter__(self) -> Iterator[UserRecord]:
        return iter(self._records.values())

    def add(self, user: User, profile: UserProfile | None = None) -> UserRecord:
        """Add a live user, or raise `RefusedError` if its address or username is taken."""
        now = self._clock.now()
        user.user_id = user.user_id or new_id(int(now.timestamp() * 1000))
        user.etag = user.etag or "1"
        for name in ("create_time", "update_time"):
            if not user.HasField(name):
                getattr(user, name).FromDatetime(now)
        set_full_name(user)
        record = UserRecord(user=user, profile=profile or UserProfile(), number=next(self._numbers))
        self.check_unique(record)
        self._records[user.user_id] = record
        return record

    def get(self, user_id: str) -> UserRecord:
        """Return a live user, or raise `RefusedError`."""
        return self.get_where(lambda user: user.user_id == user_id)

    def get_where(
        self, matches: Callable[[User], bool], *, include_deleted: bool = False
    ) -> UserRecord:
        """Return the user that matches, or raise `RefusedError`. The live user goes first."""
        found = self.find_where(matches, include_deleted=include_deleted)
        if found is None:
            raise RefusedError(ErrorReason.USER_NOT_FOUND)
        return found

    def find_where(
        self, matches: Callable[[User], bool], *, include_deleted: bool = False
    ) -> UserRecord | None:
        """Return the user that matches, or None."""
        found = [each for each in self._records.values() if matches(each.user)]
        live = [each for each in found if not each.is_deleted]
        if live or not include_deleted:
            return live[0] if live else None
        return max(found, key=lambda each: each.user.delete_time.ToNanoseconds(), default=None)

    def find_created_by(self, request_id: str, content: object) -> UserRecord | None:
        """Return the user that a request created, or None.

        Raise `RefusedError` if the request had other content.
        """
        for record in self._records.values():
            if request_id and record.request_id == request_id:
                if record.request_content != content:
                    raise RefusedError(ErrorReason.REQUEST_ID_REUSED)
                return record
        return None

    def check_unique(self, changed: UserRecord) -> None:
        """Raise `RefusedError` if another live user has the address or the username."""
        others = [
            each.user
            for each in self._records.values()
            if each is not changed and not each.is_deleted
        ]
        if any(each.email == changed.user.email for each in others):
            raise RefusedError(ErrorReason.EMAIL_TAKEN)
        username = changed.user.username
        if username and any(each.username == username for each in others):
            raise RefusedError(ErrorReason.USERNAME_TAKEN)

    def record_change(self, record: UserRecord) -> None:
        """Change the etag of a user, and when it was last written."""
        record.user.etag = str(int(record.user.etag) + 1)
        self.record_write(record)

    def record_write(self, record: UserRecord) -> None:
        """Change when a user was last written."""
        record.user.update_time.FromDatetime(self._clock.now())

    def remove(self, record: UserRecord) -> None:
        """Remove a user."""
        del self._records[record.user.user_id]


def set_full_name(user: User) -> None:
    """Derive the full name from the first and the last name."""
    user.full_name = f"{user.first_name} {user.last_name}".strip()


def new_id(milliseconds: int) -> str:
    """Return a UUIDv7, as the ids of the real service are."""
    value = (milliseconds << 80) | (7 << 76) | (2 << 62)
    return str(UUID(int=value | (secrets.randbits(12) << 64) | secrets.randbits(62)))
