"""Second factors: their records, and how their proofs are checked and used."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar.auth.v1.factor_pb2 import Factor, FactorKind
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.store.clock import Clock
from tamatar_auth.client.testing.store.totp import STEP_SECONDS, code_of_step, steps_at
from tamatar_auth.client.testing.store.users import new_id

TOTP = FactorKind.FACTOR_KIND_TOTP
RECOVERY_CODES = FactorKind.FACTOR_KIND_RECOVERY_CODES
PASSKEY = FactorKind.FACTOR_KIND_PASSKEY

MAX_FACTORS = 20
"""The most factors of a user besides the recovery codes."""

CODES = 10
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", " ": None, "-": None})


UseProof = Callable[[], None]
"""Uses a right proof, which then works no longer."""


@dataclass
class FactorRecord:
    """A factor, and its secrets."""

    factor: Factor
    secret: bytes = field(default=b"", repr=False)
    last_step: int = -1
    """The step of the last code that was used. Its code and earlier ones are void."""
    codes: set[str] = field(default_factory=set, repr=False)
    credential_id: str = ""
    key: bytes = field(default=b"", repr=False)
    sign_count: int = 0

    @property
    def is_confirmed(self) -> bool:
        """Whether the factor counts."""
        return self.factor.HasField("confirm_time")


class Factors:
    """The factors of the fake service."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, FactorRecord] = {}

    def of_user(self, user_id: str) -> Sequence[FactorRecord]:
        """Return the factors of a user, the oldest first."""
        return [each for each in self._records.values() if each.factor.user_id == user_id]

    def confirmed(self, user_id: str, kind: FactorKind.ValueType) -> Sequence[FactorRecord]:
        """Return the factors of a kind that count."""
        found = self.of_user(user_id)
        return [each for each in found if each.factor.kind == kind and each.is_confirmed]

    def has_second_factor(self, user_id: str) -> bool:
        """Return whether a password alone signs the user in no longer."""
        return any(self.confirmed(user_id, kind) for kind in (TOTP, PASSKEY))

    def get(self, factor_id: str) -> FactorRecord:
        """Return a factor, or raise `RefusedError`."""
        if factor_id not in self._records:
            raise RefusedError(ErrorReason.FACTOR_NOT_FOUND)
        return self._records[factor_id]

    def find_passkey(self, credential_id: str) -> FactorRecord | None:
        """Return the passkey with an id of WebAuthn, or None."""
        found = (each for each in self._records.values() if each.credential_id == credential_id)
        return next(found, None) if credential_id else None

    def add_totp(self, user_id: str, label: str) -> FactorRecord:
        """Add a factor that is to be confirmed, in place of another one."""
        for each in self.of_user(user_id):
            if each.factor.kind == TOTP and not each.is_confirmed:
                self.remove(each)
        self.require_room(user_id)
        record = self._add(user_id, TOTP, label)
        record.secret = secrets.token_bytes(20)
        return record

    def add_codes(self, user_id: str) -> tuple[FactorRecord, Sequence[str]]:
        """Add recovery codes in place of earlier ones, and return them."""
        for each in self.of_user(user_id):
            if each.factor.kind == RECOVERY_CODES:
                self.remove(each)
        record = self._add(user_id, RECOVERY_CODES)
        codes = ["-".join(_new_group() for _ in range(3)) for _ in range(CODES)]
        record.codes = {_normal_code(code) for code in codes}
        record.factor.remaining_code_count = len(codes)
        self.confirm(record)
        return record, codes

    def add_passkey(self, user_id: str, label: str) -> FactorRecord:
        """Add a passkey."""
        self.require_room(user_id)
        record = self._add(user_id, PASSKEY, label)
        self.confirm(record)
        return record

    def require_room(self, user_id: str) -> None:
        """Raise `RefusedError` if the user has as many factors as are allowed."""
        count = sum(each.factor.kind != RECOVERY_CODES for each in self.of_user(user_id))
        if count >= MAX_FACTORS:
            raise RefusedError(ErrorReason.TOO_MANY_FACTORS)

    def confirm(self, record: FactorRecord) -> None:
        """Let a factor count from now on."""
        if not record.is_confirmed:
            record.factor.confirm_time.FromDatetime(self._clock.now())

    def find_step(self, record: FactorRecord, code: str) -> int | None:
        """Return the step of a code that an app shows now, or None if the code is wrong."""
        for step in steps_at(self._clock.now().timestamp()):
            if code_of_step(record.secret, step) == code.replace(" ", ""):
                return step
        return None

    def next_code(self, record: FactorRecord) -> str:
        """Return a code that is right and unused. The clock moves on if all have been used."""
        step = max(record.last_step + 1, steps_at(self._clock.now().timestamp())[0])
        while step not in steps_at(self._clock.now().timestamp()):
            self._clock.advance(timedelta(seconds=STEP_SECONDS))
        return code_of_step(record.secret, step)

    def confirm_by_code(self, record: FactorRecord, code: str) -> None:
        """Let an app count, or raise `RefusedError`. The code that was used last is right too."""
        step = self.find_step(record, code)
        if record.factor.kind != TOTP:
            raise RefusedError(ErrorReason.FACTOR_NOT_FOUND)
        if step is None or step < record.last_step:
            raise RefusedError(ErrorReason.INVALID_PROOF)
        record.last_step = step
        self.confirm(record)

    def check_totp_code(self, user_id: str, code: str) -> UseProof:
        """Return the use of a code of one of the user's apps, or raise `RefusedError`."""
        for record in self.confirmed(user_id, TOTP):
            step = self.find_step(record, code)
            if step is not None and step > record.last_step:
                return partial(self._use, record, last_step=step)
        raise RefusedError(ErrorReason.INVALID_PROOF)

    def check_recovery_code(self, user_id: str, code: str) -> UseProof:
        """Return the use of a recovery code of a user, or raise `RefusedError`."""
        for record in self.confirmed(user_id, RECOVERY_CODES):
            if _normal_code(code) in record.codes:
                return partial(self._use, record, codes=record.codes - {_normal_code(code)})
        raise RefusedError(ErrorReason.INVALID_PROOF)

    def check_sign_count(self, record: FactorRecord, sign_count: int) -> UseProof:
        """Return the use of a passkey that has signed, or raise `RefusedError`."""
        if (sign_count or record.sign_count) and sign_count <= record.sign_count:
            raise RefusedError(ErrorReason.INVALID_PROOF)
        return partial(self._use, record, sign_count=sign_count)

    def remove(self, record: FactorRecord) -> None:
        """Remove a factor."""
        del self._records[record.factor.factor_id]

    def remove_of_user(self, user_id: str) -> None:
        """Remove the factors of a user."""
        for record in self.of_user(user_id):
            self.remove(record)

    def _add(self, user_id: str, kind: FactorKind.ValueType, label: str = "") -> FactorRecord:
        now = self._clock.now()
        factor_id = new_id(int(now.timestamp() * 1000))
        factor = Factor(factor_id=factor_id, user_id=user_id, kind=kind, label=label)
        factor.create_time.FromDatetime(now)
        record = FactorRecord(factor)
        self._records[factor_id] = record
        return record

    def _use(self, record: FactorRecord, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(record, name, value)
        record.factor.remaining_code_count = len(record.codes)
        record.factor.last_use_time.FromDatetime(self._clock.now())


def _new_group() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(4))


def _normal_code(text: str) -> str:
    return text.upper().translate(_READ_AS)
