"""FastAPI, Starlette and Django in the forms of their users, as processes of uvicorn."""

from typing import ClassVar

import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest, RevokeSessionRequest
from tamatar_auth.client import connect
from tests.support.commands import SAMPLE_PASSWORD
from tests.support.waiting import PATIENCE, until
from tests.support.web import running_site

HEAD = """
import os
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from tamatar_auth.client import current_session
from tamatar_auth.client.aio import SessionGuard, connect
from tamatar_auth.client.asgi import SessionMiddleware

def me(request):
    return PlainTextResponse(current_session().user.email)

async def me_async(request):
    return PlainTextResponse(current_session().user.email)

routes = [Route("/me", me_async), Route("/thread", me)]
"""

AT_IMPORT = """
auth = connect(os.environ["AUTH"])
guard = SessionGuard(auth)
"""

SERVE = """
if __name__ == "__main__":
    uvicorn.run(app, fd=int(os.environ["FD"]))
"""

FORMS = {
    "add_middleware at import": f"""{HEAD}{AT_IMPORT}
app = FastAPI()
app.add_route("/me", me_async)
app.add_route("/thread", me)
app.add_middleware(SessionMiddleware, guard=guard)
{SERVE}""",
    "Middleware at import, closed in lifespan": f"""{HEAD}{AT_IMPORT}
@asynccontextmanager
async def lifespan(app):
    async with auth:
        yield

app = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(SessionMiddleware, guard)])
{SERVE}""",
    "wrapped at import": f"""{HEAD}{AT_IMPORT}
app = SessionMiddleware(Starlette(routes=routes), guard)
{SERVE}""",
    "in lifespan": f"""{HEAD}
@asynccontextmanager
async def lifespan(app):
    async with connect(os.environ["AUTH"]) as auth:
        app.state.guard = SessionGuard(auth)
        yield

app = Starlette(routes=routes, lifespan=lifespan)
app.add_middleware(SessionMiddleware, guard=lambda: app.state.guard)
{SERVE}""",
}
UVICORN = ("-m", "uvicorn", "app:app", "--fd", "FD")
STARTS = {
    "script": ("app.py",),
    "command": UVICORN,
    "workers": (*UVICORN, "--workers", "2", "--timeout-worker-healthcheck", f"{PATIENCE:.0f}"),
    "reload": (*UVICORN, "--reload"),
}
OTHERS = [start for start in STARTS if start != "script"]


@pytest.fixture
def token(sample_address):
    with connect(sample_address) as auth:
        request = CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)
        yield auth.sessions.CreateSession(request).session_token


def revoke(address, token):
    with connect(address) as auth:
        auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))


class TestForms:
    """Where the client is made, how the middleware is added, and how the site is started."""

    @pytest.mark.parametrize(
        ("form", "start"),
        [*((form, "script") for form in FORMS), *((next(iter(FORMS)), start) for start in OTHERS)],
    )
    def test_site_answers_signed_in_user_only(self, sample_address, token, tmp_path, form, start):
        (tmp_path / "app.py").write_text(FORMS[form])
        with running_site(tmp_path, *STARTS[start], AUTH=sample_address) as site:
            bearer = {"Authorization": f"Bearer {token}"}
            for _ in range(5):
                for path in ("/me", "/thread"):
                    answer = site.ask(path, **bearer)
                    assert (answer.status, answer.body) == (200, "test1@example.com"), site.said
            refused = site.ask("/me")
            assert (refused.status, refused.json["reason"]) == (401, "SESSION_UNKNOWN")

            revoke(sample_address, token)

            until(lambda: site.ask("/me", **bearer).status == 401)
            assert site.ask("/me", **bearer).json["reason"] == "SESSION_REVOKED"
            assert "Traceback" not in site.said


FASTAPI = f"""{HEAD}{AT_IMPORT}
from typing import Annotated

from fastapi import Depends, WebSocket
from starlette.middleware.cors import CORSMiddleware

from tamatar_auth.client import CurrentSession
from tamatar_auth.client import fastapi as tamatar

Session = Annotated[CurrentSession, Depends(tamatar.current_session)]
Visitor = Annotated[CurrentSession | None, Depends(tamatar.find_current_session)]

async def orders(session: Session) -> str:
    assert session is current_session()
    return session.user.email

def thread(session: Session) -> str:
    assert session is current_session()
    return session.user.email

async def start(visitor: Visitor) -> str | None:
    return visitor and visitor.user.email

async def plain() -> str:
    return "plain"

async def chat(websocket: WebSocket, session: Session) -> None:
    await websocket.accept()
    await websocket.send_text(session.user.email)
    await websocket.close()

def application():
    app = FastAPI()
    for handler in (orders, thread, start, plain):
        app.add_api_route("/" + handler.__name__, handler)
    app.add_api_route("/open", start)
    app.add_api_websocket_route("/chat", chat)
    return app

def add_cors(app):
    app.add_middleware(
        CORSMiddleware, allow_origins=["https://shop.test"], allow_headers=["authorization"]
    )

def add_sessions(app):
    app.add_middleware(
        SessionMiddleware,
        guard,
        open_paths=["/open", "/openapi.json"],
        optional_paths=["/start", "/orders", "/thread", "/chat"],
    )

cors_outside, cors_inside, bare, broken = (application() for _ in range(4))
add_sessions(cors_outside)
add_cors(cors_outside)
add_cors(cors_inside)
add_sessions(cors_inside)

@asynccontextmanager
async def lifespan(app):
    closed = connect(os.environ["AUTH"])
    await closed.close()
    app.state.closed = SessionGuard(closed)
    yield

broken.add_middleware(SessionMiddleware, lambda: app.state.closed)
app = FastAPI(lifespan=lifespan)
app.mount("/outside", cors_outside)
app.mount("/inside", cors_inside)
app.mount("/bare", bare)
app.mount("/broken", broken)
"""


@pytest.fixture(scope="module")
def site(sample_address, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "app.py").write_text(FASTAPI)
    with running_site(folder, *UVICORN, AUTH=sample_address) as site:
        yield site


@pytest.fixture
def bearer(token):
    return {"Authorization": f"Bearer {token}"}


class TestDependencies:
    """The dependencies of `tamatar_auth.client.fastapi`."""

    @pytest.mark.parametrize("path", ["/orders", "/thread"])
    def test_required_session_is_that_of_request(self, site, bearer, path):
        answer = site.ask(f"/outside{path}", **bearer)

        assert (answer.status, answer.json) == (200, "test1@example.com")

    @pytest.mark.parametrize("path", ["/orders", "/thread"])
    def test_required_session_that_is_missing_is_401(self, site, path):
        answer = site.ask(f"/outside{path}")

        assert (answer.status, answer.json) == (401, {"detail": "The session is not known."})
        assert answer.headers["WWW-Authenticate"] == "Bearer"

    def test_optional_session_may_be_missing(self, site, bearer):
        assert site.ask("/outside/start", **bearer).json == "test1@example.com"
        assert site.ask("/outside/start").json is None
        assert site.ask("/outside/open", **bearer).json is None
        assert site.ask("/outside/start", Authorization="Bearer tms_unknown").status == 401

    def test_openapi_document_has_bearer_scheme(self, site):
        document = site.ask("/outside/openapi.json").json

        scheme = document["components"]["securitySchemes"]["session"]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        for path, expected in (("/orders", [{"session": []}]), ("/plain", None)):
            assert document["paths"][path]["get"].get("security") == expected

    def test_websocket_without_required_session_is_refused(self, site, token):
        url = f"{site.url.replace('http', 'ws')}/outside/chat"
        headers = {"Authorization": f"Bearer {token}"}
        with websockets.sync.client.connect(url, additional_headers=headers) as socket:
            assert socket.recv(PATIENCE) == "test1@example.com"
        with pytest.raises(InvalidStatus, match="403"), websockets.sync.client.connect(url):
            pass

    def test_dependency_without_middleware_says_what_to_do(self, site):
        assert site.ask("/bare/orders").status == 500
        until(lambda: "RuntimeError: add SessionMiddleware to the application" in site.said)


class TestErrors:
    """Errors of the program, which are no reason to try again later."""

    def test_closed_client_is_500_and_logged(self, site, bearer):
        assert site.ask("/broken/orders", **bearer).status == 500
        until(lambda: "UsageError: the client is closed: close it after" in site.said)


class TestCors:
    """Requests of pages of another origin."""

    PREFLIGHT: ClassVar = {
        "Origin": "https://shop.test",
        "Access_Control_Request_Method": "GET",
        "Access_Control_Request_Headers": "authorization",
    }

    @pytest.mark.parametrize("order", ["outside", "inside"])
    def test_preflight_is_answered_without_session(self, site, order):
        answer = site.ask(f"/{order}/plain", method="OPTIONS", **self.PREFLIGHT)

        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.test"

    def test_other_options_request_needs_a_session(self, site):
        assert site.ask("/outside/plain", method="OPTIONS").status == 401

    @pytest.mark.parametrize(("order", "has_header"), [("outside", True), ("inside", False)])
    def test_refusal_has_cors_headers_if_added_last(self, site, order, has_header):
        answer = site.ask(f"/{order}/plain", Origin="https://shop.test")

        assert answer.status == 401
        assert ("Access-Control-Allow-Origin" in answer.headers) == has_header
