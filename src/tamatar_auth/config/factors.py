"""Settings of second factors: authenticator apps, recovery codes and passkeys."""

from collections.abc import Iterator

from pydantic import Field

from tamatar_auth.config.groups import Conflict, SettingsGroup
from tamatar_auth.config.types import OptionalFile, OptionalSecret
from tamatar_auth.config.web_origins import Domain, Origins, host_of, is_within

RELYING_PARTY_ID = "TAMATAR_PASSKEY_RELYING_PARTY_ID"
ORIGINS = "TAMATAR_PASSKEY_ORIGINS"


class FactorSettings(SettingsGroup):
    """Second factors: authenticator apps, recovery codes and passkeys."""

    keys: OptionalSecret = Field(default=None, validation_alias="TAMATAR_FACTOR_KEYS")
    """The keys that encrypt the secrets of authenticator apps and digest recovery codes: id:base64,
    separated by spaces, the newest last. An old key must stay until no factor names it. Production
    enrols no factors without keys."""
    keys_file: OptionalFile = Field(default=None, validation_alias="TAMATAR_FACTOR_KEYS_FILE")
    """A file with factor keys, one a line."""
    issuer_name: str = Field(
        default="Tamatar Auth", min_length=1, max_length=64, pattern=r"^[^:\x00-\x1f\x7f]*$"
    )
    """The name of your service, which authenticator apps and browsers show beside the account. It
    has no colon."""
    passkey_relying_party_id: Domain = None
    """The domain that passkeys belong to, such as example.com: that of the origins or one above
    them, and no public suffix such as co.uk. Another domain later makes all passkeys useless.
    Unless set, localhost in development."""
    passkey_origins: Origins = ()
    """The origins of the pages that ask for passkeys, such as https://login.example.com, separated
    by commas. Unless set, http://localhost:8000 in development."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what passkeys lack, and each origin that is not within their domain."""
        domain, origins = self.passkey_relying_party_id, self.passkey_origins
        if origins and domain is None:
            yield Conflict(RELYING_PARTY_ID, f"must be set if {ORIGINS} is set")
        if domain is not None and not origins:
            yield Conflict(ORIGINS, f"must be set if {RELYING_PARTY_ID} is set")
        outside = [each for each in origins if domain and not is_within(host_of(each), domain)]
        if outside:
            yield Conflict(ORIGINS, f"{', '.join(outside)} must be within the domain {domain}")
