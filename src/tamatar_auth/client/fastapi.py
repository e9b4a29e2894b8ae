"""Dependencies for FastAPI: the session of the request, and its scheme in the OpenAPI document."""

from typing import Annotated

from fastapi import Depends, HTTPException, WebSocketException, status
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from tamatar_auth.client.asgi import SCOPE_KEY, UNAUTHENTICATED
from tamatar_auth.client.current_session import CurrentSession
from tamatar_auth.client.guard_rules import CallRejected

__all__ = ["current_session", "find_current_session"]


class _FoundSession(SecurityBase):
    """Returns the session that `SessionMiddleware` found."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="The token of a session.", bearerFormat="tms_…")
        self.scheme_name = "session"

    async def __call__(self, connection: HTTPConnection) -> CurrentSession | None:
        if SCOPE_KEY not in connection.scope:
            raise RuntimeError("add SessionMiddleware to the application")
        session: CurrentSession | None = connection.scope[SCOPE_KEY]
        return session


find_current_session = _FoundSession()
"""Returns the session of the request, or None.

>>> Visitor = Annotated[CurrentSession | None, Depends(find_current_session)]
"""


async def current_session(
    session: Annotated[CurrentSession | None, Depends(find_current_session)],
    connection: HTTPConnection,
) -> CurrentSession:
    """Return the session of the request. Without one, the answer is 401.

    >>> Session = Annotated[CurrentSession, Depends(current_session)]
    >>> @app.get("/orders")
    ... async def orders(session: Session) -> list[Order]: ...
    """
    if session is not None:
        return session
    rejection = CallRejected.unknown_session()
    if connection.scope["type"] == "websocket":
        raise WebSocketException(UNAUTHENTICATED, rejection.reason)
    raise HTTPException(
        status.HTTP_401_UNAUTHORIZED, rejection.message, {"WWW-Authenticate": "Bearer"}
    )
