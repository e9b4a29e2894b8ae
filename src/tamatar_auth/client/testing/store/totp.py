"""Codes of authenticator apps (RFC 6238). The client has no library for them."""

import hmac

STEP_SECONDS = 30
WINDOW = 1
"""Steps by which the clock of a phone may differ, either way."""


def code_of_step(secret: bytes, step: int) -> str:
    """Return the six digits that an app shows during a step."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def steps_at(moment: float) -> range:
    """Return the steps whose codes are right at a time in seconds since 1970."""
    now = int(moment // STEP_SECONDS)
    return range(now - WINDOW, now + WINDOW + 1)
