"""The failures about second factors and challenges."""

from collections.abc import Iterable
from enum import StrEnum

from tamatar_auth.errors import Failure


class ProofCause(StrEnum):
    """The cause of a refused proof, which no caller sees."""

    NO_CHALLENGE = "no_challenge"
    TOO_MANY_ANSWERS = "too_many_answers"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    NO_FACTOR = "no_factor"
    WRONG_CODE = "wrong_code"
    USED_CODE = "used_code"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a cause
    WRONG_CREDENTIAL = "wrong_credential"
    NOT_VERIFIED_BY_PASSKEY = "not_verified_by_passkey"
    SIGN_COUNT_WENT_BACK = "sign_count_went_back"
    CHANGED_MEANWHILE = "changed_meanwhile"


class FactorNotFound(Failure):
    """No such factor exists."""

    code = "NOT_FOUND"
    reason = "FACTOR_NOT_FOUND"
    message = "There is no such factor."


class InvalidProof(Failure):
    """A challenge, a code or a credential is not valid. The cause stays in the audit trail."""

    code = "UNAUTHENTICATED"
    reason = "INVALID_PROOF"
    message = "The proof is not valid."

    def __init__(
        self, cause: str | None = None, user_id: object = None, factor_id: object = None
    ) -> None:
        super().__init__()
        values = {"cause": cause, "user_id": user_id, "factor_id": factor_id}
        self.audit_details = {name: str(value) for name, value in values.items() if value}


class FactorsNotConfigured(Failure):
    """The server lacks settings for a kind of factor."""

    code = "FAILED_PRECONDITION"
    reason = "FACTORS_NOT_CONFIGURED"
    message = "The server is not set up for this kind of factor."

    def __init__(self, settings: Iterable[str] = ()) -> None:
        super().__init__()
        self.metadata = {"settings": ",".join(settings)}


class TooManyFactors(Failure):
    """The user has as many factors as are allowed."""

    code = "FAILED_PRECONDITION"
    reason = "TOO_MANY_FACTORS"
    message = "The user has too many factors. Delete one first."


class PasskeyTaken(Failure):
    """The passkey is registered already."""

    code = "ALREADY_EXISTS"
    reason = "PASSKEY_TAKEN"
    message = "The passkey is already registered."
