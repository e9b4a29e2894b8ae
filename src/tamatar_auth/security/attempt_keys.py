"""Under which account attempts are counted: the user's, or that of an address nobody has.

A user's attempts follow it when its address changes, and stay behind when the address goes to
somebody else.
"""

import hashlib
from uuid import UUID


def account_of_user(user_id: UUID) -> bytes:
    """Give the account of a user, or of an id that no user has: 32 bytes."""
    return hashlib.sha256(f"user:{user_id}".encode()).digest()


def account_of_email(email: str) -> bytes:
    """Give the account of an address, in its normal form, that no user has."""
    return hashlib.sha256(f"email:{email}".encode()).digest()


def account_of_username(username: str) -> bytes:
    """Give the account of a name, in its normal form, that no user has."""
    return hashlib.sha256(f"username:{username}".encode()).digest()
