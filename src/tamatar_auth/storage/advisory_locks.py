"""Advisory locks: what only one process of all replicas does at a time."""

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """The second of the two numbers that PostgreSQL knows a lock by."""

    MIGRATION = 1
    SWEEP = 2


LISTENER_NAMESPACE = 0x746D7465
"""The first number of the locks that listeners share, by which triggers know that some listen."""

LISTENER_LOCKS = 64
"""How many of them there are, so that transactions that end sessions seldom meet in one."""

LOCK_NAMESPACE = 0x746D7472
"""The first number, so that no other program of the database meets our locks."""
