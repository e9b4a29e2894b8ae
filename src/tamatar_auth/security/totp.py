"""Codes of authenticator apps (TOTP, RFC 6238): SHA-1, six digits, 30 seconds.

All apps know these parameters, and some know no others.
"""

import base64
import secrets

from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from cryptography.hazmat.primitives.twofactor.totp import TOTP

SECRET_BYTES = 20
"""The bytes of a secret: as many as SHA-1 returns (RFC 4226, 4)."""

STEP_SECONDS = 30
WINDOW = 1
"""Steps by which the clock of a phone may differ, either way."""

_DIGITS = 6


def new_secret() -> bytes:
    """Return a random secret."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """Return a secret in base32, as people type it into an app."""
    return base64.b32encode(secret).decode()


def enrolment_uri(secret: bytes, *, account: str, issuer: str) -> str:
    """Return the `otpauth://` URI that apps read from a QR code."""
    totp = TOTP(secret, _DIGITS, SHA1(), STEP_SECONDS)  # noqa: S303 - what apps know
    uri = totp.get_provisioning_uri(account, issuer)
    # Some apps show the plus signs of a query. No value has one: they are written as %2B.
    return uri.replace("+", "%20")


def step_at(moment: float) -> int:
    """Return the number of the step at a time in seconds since 1970."""
    return int(moment // STEP_SECONDS)


def find_step(secret: bytes, code: str, moment: float) -> int | None:
    """Return the step of a code, or None if the code is wrong at that time.

    Right and wrong codes take the same time.
    """
    hotp = HOTP(secret, _DIGITS, SHA1())  # noqa: S303 - what apps know
    typed, now = code.replace(" ", "").encode(), step_at(moment)
    steps = range(max(now - WINDOW, 0), now + WINDOW + 1)
    is_match = [constant_time.bytes_eq(hotp.generate(step), typed) for step in steps]
    return next((step for step, match in zip(steps, is_match, strict=True) if match), None)
