"""Dependencies for FastAPI: the session of the request, and its scheme in the OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, WebSocketException
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from tamatar_auth.client.asgi import CHECK_KEY, SCOPE_KEY, Check, close_message
from tamatar_auth.client.current_session import CurrentSession
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.client.step_up import StepUp
from tamatar_auth.client.web_rules import status_and_hint

__all__ = ["current_session", "find_current_session", "require_step_up"]


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
    raise _exception(connection, CallRejected.unknown_session())


def require_step_up(
    step_up: StepUp,
) -> Callable[[HTTPConnection, CurrentSession], Awaitable[CurrentSession]]:
    """Return a dependency on a stronger or more recent authentication. Without it, 401.

    The middleware has the same rule, by path. The dependency is for routes with parameters.

    >>> Payer = Annotated[CurrentSession, Depends(require_step_up(StepUp(level=AAL2)))]
    >>> @app.post("/orders/{number}/pay")
    ... async def pay(number: int, session: Payer) -> Receipt: ...
    """
    if not isinstance(step_up, StepUp):
        raise TypeError("require_step_up needs an instance of StepUp")

    async def require(
        connection: HTTPConnection,
        _session: Annotated[CurrentSession, Depends(current_session)],
    ) -> CurrentSession:
        check: Check = connection.scope[CHECK_KEY]
        try:
            return await check(step_up)
        except CallRejected as rejection:
            raise _exception(connection, rejection) from None

    return require


def _exception(
    connection: HTTPConnection, rejection: CallRejected
) -> HTTPException | WebSocketException:
    """Return the exception that FastAPI answers as the middleware rejects."""
    if connection.scope["type"] == "websocket":
        return WebSocketException(close_message(rejection)["code"], rejection.reason)
    status, hint = status_and_hint(rejection)
    return HTTPException(status, rejection.message, dict(hint))
