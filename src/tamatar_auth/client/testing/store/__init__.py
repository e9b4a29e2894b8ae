"""The users, sessions and factors of the fake service, in memory."""

from threading import RLock

from tamatar_auth.client.testing.store.challenges import Challenges
from tamatar_auth.client.testing.store.clock import Clock
from tamatar_auth.client.testing.store.factors import Factors
from tamatar_auth.client.testing.store.one_time_tokens import OneTimeTokens
from tamatar_auth.client.testing.store.session_ends import SessionEnds
from tamatar_auth.client.testing.store.sessions import Sessions
from tamatar_auth.client.testing.store.users import UserRecord, Users

__all__ = ["FakeStore"]


class FakeStore:
    """All that the fake service keeps. Its lock is held during each call."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.clock = Clock()
        self.ends = SessionEnds()
        self.users = Users(self.clock)
        self.sessions = Sessions(self.clock, self.users, self.ends)
        self.tokens = OneTimeTokens(self.clock)
        self.factors = Factors(self.clock)
        self.challenges = Challenges(self.clock)

    def deactivate(self, record: UserRecord) -> int:
        """Deactivate a user, end its sessions and tokens; return how many sessions were live."""
        if record.user.is_active:
            record.user.is_active = False
            self.users.record_change(record)
            self.ends.publish_user(record.user.user_id)
        return self._end(record)

    def delete(self, record: UserRecord, deleted_by: str) -> int:
        """Mark a user as deleted, and do all that `deactivate` does."""
        user = record.user
        was_active, user.is_active, user.deleted_by = user.is_active, False, deleted_by
        user.delete_time.FromDatetime(self.clock.now())
        self.users.record_change(record)
        if was_active:
            self.ends.publish_user(user.user_id)
        return self._end(record)

    def purge(self, record: UserRecord) -> None:
        """Remove a user with its sessions and tokens."""
        self._end(record)
        self.sessions.remove_of_user(record.user.user_id)
        self.factors.remove_of_user(record.user.user_id)
        self.users.remove(record)

    def revoke_secrets(self, record: UserRecord) -> None:
        """End the one-time tokens and the challenges of a user."""
        self.tokens.revoke(record.user.user_id)
        self.challenges.remove_of_user(record.user.user_id)

    def _end(self, record: UserRecord) -> int:
        self.revoke_secrets(record)
        return self.sessions.revoke_of_user(record.user.user_id)
