"""Challenges: issued after a first proof, answered a few times at most, and used once."""

import base64
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from enum import Enum, auto

from google.protobuf.timestamp_pb2 import Timestamp

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.store.clock import Clock

LIFETIME = timedelta(minutes=5)
MAX_ANSWERS = 5


class ChallengePurpose(Enum):
    """The use of a challenge."""

    SIGN_IN = auto()
    PASSKEY_SIGN_IN = auto()
    NAMED_PASSKEY_SIGN_IN = auto()
    REGISTRATION = auto()
    STEP_UP = auto()


@dataclass
class ChallengeRecord:
    """A challenge, and how often it was answered."""

    token: str = field(repr=False)
    purpose: ChallengePurpose
    expire_time: Timestamp
    user_id: str
    session_id: str
    answers: int = 0

    @property
    def webauthn(self) -> str:
        """The challenge that a passkey signs, as it stands in JSON."""
        return base64url(hmac.digest(self.token.encode(), b"webauthn", "sha256"))


class Challenges:
    """Issues challenges, and counts their answers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, ChallengeRecord] = {}

    def issue(
        self, purpose: ChallengePurpose, user_id: str = "", session_id: str = ""
    ) -> ChallengeRecord:
        """Issue a challenge."""
        expire_time = Timestamp()
        expire_time.FromDatetime(self._clock.now() + LIFETIME)
        token = f"tmh_{secrets.token_urlsafe(32)}"
        record = ChallengeRecord(token, purpose, expire_time, user_id, session_id)
        self._records[token] = record
        return record

    def answer(
        self, token: str, purposes: Collection[ChallengePurpose], session_id: str = ""
    ) -> ChallengeRecord:
        """Count an answer to a challenge and return it, or raise `RefusedError`."""
        found = self._records.get(token)
        if (
            found is None
            or found.purpose not in purposes
            or found.session_id != session_id
            or found.expire_time.ToDatetime(tzinfo=UTC) <= self._clock.now()
        ):
            raise RefusedError(ErrorReason.INVALID_PROOF)
        found.answers += 1
        if found.answers > MAX_ANSWERS:
            raise RefusedError(ErrorReason.INVALID_PROOF)
        return found

    def use(self, record: ChallengeRecord) -> None:
        """Remove a challenge that was answered."""
        del self._records[record.token]

    def remove_of_user(self, user_id: str) -> None:
        """Remove the challenges of a user, because what they rest on has changed."""
        for token in [each.token for each in self._records.values() if each.user_id == user_id]:
            del self._records[token]


def base64url(content: bytes) -> str:
    """Return bytes as browsers write them into JSON."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Return the bytes of a text in JSON of a browser, or raise `ValueError`."""
    return base64.urlsafe_b64decode(text + "==")
