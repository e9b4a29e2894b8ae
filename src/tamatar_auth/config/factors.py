"""Settings of second factors: authenticator apps, recovery codes and passkeys."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tamatar_auth.config.groups import SettingsGroup
from tamatar_auth.config.types import OptionalFile, OptionalSecret, WordList, empty_as_none


class FactorSettings(SettingsGroup):
    """Second factors: authenticator apps, recovery codes and passkeys."""

    keys: OptionalSecret = Field(default=None, validation_alias="TAMATAR_FACTOR_KEYS")
    """The keys that encrypt the secrets of authenticator apps and digest recovery codes: id:base64,
    separated by spaces, the newest last. An old key must stay until no factor names it. Production
    enrolls no factors without keys."""
    keys_file: OptionalFile = Field(default=None, validation_alias="TAMATAR_FACTOR_KEYS_FILE")
    """A file with factor keys, one a line."""
    issuer_name: str = Field(
        default="Tamatar Auth", min_length=1, max_length=64, pattern=r"^[^:\x00-\x1f\x7f]*$"
    )
    """The name of your service, which authenticator apps and browsers show beside the account. It
    has no colon."""
    passkey_relying_party_id: Annotated[
        Annotated[str, Field(max_length=253)] | None, BeforeValidator(empty_as_none)
    ] = None
    """The domain that passkeys belong to, such as example.com. Another domain later makes all
    passkeys useless. Unless set, localhost in development."""
    passkey_origins: WordList = ()
    """The origins of the pages that ask for passkeys, such as https://login.example.com, separated
    by commas. Unless set, http://localhost:8000 in development."""
