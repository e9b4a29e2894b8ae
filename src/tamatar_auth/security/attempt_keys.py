"""The keys under which password attempts are counted: a user, or an address without a user.

The attempts of a user follow the user when the address changes. They do not follow the address
to another user.
"""

import hashlib
from uuid import UUID


def account_of_user(user_id: UUID) -> bytes:
    """Return the key of a user, or of an id that no user has: 32 bytes."""
    return hashlib.sha256(f"user:{user_id}".encode()).digest()


def account_of_email(email: str) -> bytes:
    """Return the key of a normalised address that no user has."""
    return hashlib.sha256(f"email:{email}".encode()).digest()


def account_of_username(username: str) -> bytes:
    """Return the key of a normalised username that no user has."""
    return hashlib.sha256(f"username:{username}".encode()).digest()
