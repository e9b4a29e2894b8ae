"""What browsers send: the JSON of credentials, with a bound on each part and on its depth.

The names are those of WebAuthn's `RegistrationResponseJSON` and `AuthenticationResponseJSON`.
Fields that no check needs are dropped. The parser refuses JSON that is nested deeply.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


def _base64url(max_bytes: int) -> Any:
    max_letters = -(-max_bytes * 4 // 3)
    return StringConstraints(
        min_length=1, max_length=max_letters, pattern=r"^[A-Za-z0-9_-]+$", strict=True
    )


CredentialIdText: TypeAlias = Annotated[str, _base64url(1023)]
ClientDataText: TypeAlias = Annotated[str, _base64url(3072)]
Transport: TypeAlias = Annotated[str, StringConstraints(max_length=32)]


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, strict=True, extra="ignore", frozen=True)

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return []


class _AttestationResponse(_Json):
    client_data_json: ClientDataText = Field(alias="clientDataJSON")
    attestation_object: Annotated[str, _base64url(8192)]
    transports: Annotated[tuple[Transport, ...], Field(max_length=16, strict=False)] = ()


class _AssertionResponse(_Json):
    client_data_json: ClientDataText = Field(alias="clientDataJSON")
    authenticator_data: Annotated[str, _base64url(2048)]
    signature: Annotated[str, _base64url(1024)]
    user_handle: Annotated[str, Field(max_length=88)] | None = None


class RegistrationJson(_Json):
    """The answer of a browser that made a passkey."""

    id: CredentialIdText
    raw_id: CredentialIdText
    type: Literal["public-key"]
    response: _AttestationResponse


class AssertionJson(_Json):
    """The answer of a browser that used a passkey."""

    id: CredentialIdText
    raw_id: CredentialIdText
    type: Literal["public-key"]
    response: _AssertionResponse


class ClientDataJson(_Json):
    """The part of the client data that the library does not check."""

    cross_origin: bool = False
    top_origin: Any = None
