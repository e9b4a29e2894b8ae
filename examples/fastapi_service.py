"""A website for signed-in users, with FastAPI. It signs people in with a cookie.

Run: AUTH_ADDRESS=127.0.0.1:50051 uvicorn --app-dir examples fastapi_service:app
"""
# ruff: noqa: INP001 - a script

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest, RevokeSessionRequest
from tamatar_auth.client import (
    BusyError,
    CredentialsError,
    CurrentSession,
    InvalidRequestError,
    PreconditionError,
    UnavailableError,
)
from tamatar_auth.client.aio import SessionGuard, connect
from tamatar_auth.client.asgi import SessionMiddleware
from tamatar_auth.client.fastapi import current_session

COOKIE = "session"
REFUSALS = {
    InvalidRequestError: (400, "The email or the password is malformed."),
    CredentialsError: (401, "The email or the password is wrong."),
    PreconditionError: (403, "The email is not verified."),
    BusyError: (429, "Please try again later."),
    UnavailableError: (503, "The sign-in is not available at the moment."),
}
"""The status and the text for people. A text of gRPC may name a host."""

auth = connect(os.environ["AUTH_ADDRESS"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close the connections at the end."""
    async with auth:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    SessionMiddleware, SessionGuard(auth), open_paths=["/", "/sign-in"], cookie=COOKIE
)
# The middleware added last is the outermost: refusals get the headers of CORS, too.
app.add_middleware(
    CORSMiddleware,
    allow_origins=[os.environ.get("SHOP_ORIGIN", "https://shop.example.com")],
    allow_headers=["authorization"],
)
Session = Annotated[CurrentSession, Depends(current_session)]


class Credentials(BaseModel):
    """An address and a password. They are JSON, which a form of another site cannot send."""

    email: str
    password: str


@app.post("/sign-in", status_code=204)
async def sign_in(credentials: Credentials, response: Response) -> None:
    """Create a session, and put its token into a cookie that scripts cannot read."""
    request = CreateSessionRequest(email=credentials.email, password=credentials.password)
    try:
        created = await auth.sessions.CreateSession(request)
    except tuple(REFUSALS) as error:
        raise HTTPException(*REFUSALS[type(error)]) from None
    if created.HasField("challenge"):  # examples/web answers it
        raise HTTPException(403, "This account has a second factor.")
    response.set_cookie(
        COOKIE, created.session_token, httponly=True, secure=True, samesite="strict"
    )


@app.post("/sign-out", status_code=204)
async def sign_out(session: Session, response: Response) -> None:
    """Revoke the session, and delete the cookie."""
    await auth.sessions.RevokeSession(RevokeSessionRequest(session_id=session.session_id))
    response.delete_cookie(COOKIE, httponly=True, secure=True, samesite="strict")


@app.get("/me")
async def me(session: Session) -> dict[str, str]:
    """Return the name of the signed-in user."""
    return {"name": session.user.full_name}


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """Return a page that greets the user, or asks who it is."""
    return PAGE


PAGE = """<!doctype html>
<html lang="en">
<title>Shop</title>
<p id="greeting"></p>
<form hidden>
  <label>Email <input name="email" type="email" required></label>
  <label>Password <input name="password" type="password" required></label>
  <button>Sign in</button>
</form>
<button id="sign-out" hidden>Sign out</button>
<script>
  const [form] = document.forms, [greeting, signOut] = ["greeting", "sign-out"].map(
    (id) => document.getElementById(id))
  async function show() {
    const answer = await fetch("/me")
    greeting.textContent = answer.ok ? `Hello, ${(await answer.json()).name}!` : "Please sign in."
    form.hidden = answer.ok
    signOut.hidden = !answer.ok
  }
  form.onsubmit = async (event) => {
    event.preventDefault()
    const answer = await fetch("/sign-in", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify(Object.fromEntries(new FormData(form))),
    })
    if (answer.ok) await show()
    else greeting.textContent = (await answer.json()).detail
  }
  signOut.onclick = async () => { await fetch("/sign-out", {method: "POST"}); await show() }
  show()
</script>
</html>
"""
