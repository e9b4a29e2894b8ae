"""The start of a session, at the end of each way to sign in."""

from datetime import UTC, datetime
from typing import NamedTuple, cast

from uuid_utils.compat import uuid7

from tamatar.auth.v1.session_pb2 import SessionClient
from tamatar_auth.config.lifetimes import SessionSettings
from tamatar_auth.security import audit
from tamatar_auth.security.assurance import Methods
from tamatar_auth.security.audit import Event
from tamatar_auth.security.tokens import SessionToken
from tamatar_auth.storage.database import Scope
from tamatar_auth.storage.repositories.sessions import NewSession, SessionRow
from tamatar_auth.storage.repositories.users import UserRow


class StartedSession(NamedTuple):
    """A new session, its token, and how many sessions it has ended."""

    session: SessionRow
    token: SessionToken
    ended: int

    def record(self) -> None:
        """Record the sign-in, after its transaction has committed."""
        session = self.session
        ids = {"user_id": session.user_id, "session_id": session.id}
        audit.record(Event.SIGN_IN_SUCCEEDED, **ids, revoked_sessions=self.ended)


async def start_session(
    tx: Scope, client: SessionClient, user: UserRow, methods: Methods, limits: SessionSettings
) -> StartedSession:
    """Add a session, and end the oldest sessions beyond the limit of a user.

    The database's clock decides when the session expires: the sign-in was recorded at the time
    of this transaction.
    """
    signed_in_at = cast("datetime", user.last_login_at)
    expires_at = signed_in_at.astimezone(UTC) + limits.lifetime
    token = SessionToken.issue(user.id, expires_at)
    session = await tx.sessions.add(
        NewSession(
            id=uuid7(),
            user_id=user.id,
            token_digest=token.digest,
            expires_at=expires_at,
            user_agent=client.user_agent or None,
            ip_address=client.ip_address or None,
            authentication_methods=methods.text,
        )
    )
    return StartedSession(session, token, await tx.sessions.revoke_excess(user.id, limits.per_user))
