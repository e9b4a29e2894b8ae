"""One-time tokens of users: issued, read and consumed once."""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from enum import Enum

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.store.clock import Clock


class Purpose(Enum):
    """The use of a token."""

    EMAIL_VERIFICATION = "email_verification"
    EMAIL_CHANGE = "email_change"
    PASSWORD_RESET = "password_reset"  # noqa: S105 - a purpose

    @property
    def lifetime(self) -> timedelta:
        """How long a token lives by the default settings."""
        return timedelta(minutes=10) if self is Purpose.PASSWORD_RESET else timedelta(days=1)


@dataclass(frozen=True)
class OneTimeToken:
    """A token, and the user and the address that it was issued for."""

    text: str = field(repr=False)
    user_id: str
    email: str
    expire_time: Timestamp
    new_email: str = ""
    """The address that a change sets."""


class OneTimeTokens:
    """Issues and consumes one-time tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[tuple[str, Purpose], OneTimeToken] = {}

    def issue(self, purpose: Purpose, user: User, *, new_email: str = "") -> OneTimeToken:
        """Issue a token in place of the user's previous one of its purpose."""
        token = OneTimeToken(
            f"tmu_{secrets.token_urlsafe(32)}",
            user.user_id,
            user.email,
            self.expiry(purpose),
            new_email,
        )
        self._tokens[user.user_id, purpose] = token
        return token

    def expiry(self, purpose: Purpose) -> Timestamp:
        """Return when a token expires that is issued now."""
        expiry = Timestamp()
        expiry.FromDatetime(self._clock.now() + purpose.lifetime)
        return expiry

    def get(self, purpose: Purpose, text: str) -> OneTimeToken:
        """Return a token that can be used, or raise `RefusedError`."""
        for (_, its_purpose), token in self._tokens.items():
            if its_purpose is purpose and token.text == text:
                if token.expire_time.ToDatetime(tzinfo=UTC) > self._clock.now():
                    return token
                break
        raise RefusedError(ErrorReason.USER_TOKEN_INVALID)

    def consume(self, purpose: Purpose, token: OneTimeToken) -> None:
        """Remove a token."""
        del self._tokens[token.user_id, purpose]

    def revoke(self, user_id: str) -> None:
        """Remove every token of a user."""
        for purpose in Purpose:
            self._tokens.pop((user_id, purpose), None)
