"""The middleware of Django, in a site that runs under WSGI and under ASGI."""

import pytest

from tamatar.auth.v1.session_service_pb2 import CreateSessionRequest, RevokeSessionRequest
from tamatar_auth.client import AAL2, aio, connect
from tamatar_auth.client.django import session_middleware
from tests.support.commands import SAMPLE_PASSWORD
from tests.support.waiting import until
from tests.support.web import running_site

SITE = """
import os
import socket
from datetime import timedelta
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from tamatar_auth.client import AAL2, SessionGuard, StepUp, connect, current_session
from tamatar_auth.client import find_current_session
from tamatar_auth.client.django import session_middleware

auth = connect(os.environ["AUTH"])
guarded = session_middleware(
    SessionGuard(auth),
    open_paths=["/health"],
    optional_paths=["/start"],
    step_up={"/pay/*": StepUp(level=AAL2, max_age=timedelta(minutes=5))},
    cookie="session",
)
closed = connect(os.environ["AUTH"])
closed.close()
broken = session_middleware(SessionGuard(closed, max_age=0))

def me(request):
    assert request.tamatar_session is current_session()
    return HttpResponse(current_session().user.email)

async def me_async(request):
    assert request.tamatar_session is current_session()
    return HttpResponse(current_session().user.email)

def start(request):
    assert request.tamatar_session is find_current_session()
    return HttpResponse(repr(find_current_session()))

def plain(request):
    return HttpResponse("plain")

async def plain_async(request):
    return HttpResponse("plain")

# As middleware for CORS does. It is blocking, so under ASGI it runs on a thread.
def cors(get_response):
    def respond(request):
        is_answered = request.method == "OPTIONS" and "cors" in request.GET
        return HttpResponse("answered") if is_answered else get_response(request)
    return respond

def stream(request):
    return StreamingHttpResponse(request.tamatar_session.user.email for _ in range(2))

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"all": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["all"]},
    },
    MIDDLEWARE=["app." + os.environ["MIDDLEWARE"], "app.cors"],
    ROOT_URLCONF="app",
    SECRET_KEY="for tests",
)
urlpatterns = [
    path("me", me),
    path("me-async", me_async),
    path("start", start),
    path("health", start),
    path("stream", stream),
    path("pay/one", plain),
    path("pay/async", plain_async),
    path("plain", plain),
    path("plain-async", plain_async),
]
asgi = get_asgi_application()
wsgi = get_wsgi_application()

def serve():
    server = WSGIServer(("127.0.0.1", 0), WSGIRequestHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(os.environ["FD"]))
    server.server_name, server.server_port = "127.0.0.1", 0
    server.setup_environ()
    server.set_app(wsgi)
    server.serve_forever()
"""

STARTS = {
    "wsgi": ("-c", "import app; app.serve()"),
    "asgi": ("-m", "uvicorn", "app:asgi", "--fd", "FD", "--lifespan", "off"),
}


@pytest.fixture
def token(sample_address):
    with connect(sample_address) as auth:
        request = CreateSessionRequest(email="test1@example.com", password=SAMPLE_PASSWORD)
        yield auth.sessions.CreateSession(request).session_token


@pytest.fixture
def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module", params=STARTS)
def site(request, sample_address, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "app.py").write_text(SITE)
    command, env = STARTS[request.param], {"AUTH": sample_address, "MIDDLEWARE": "guarded"}
    with running_site(folder, *command, **env) as site:
        yield site


class TestSessionMiddleware:
    """Requests to guarded views, blocking and asyncio ones."""

    @pytest.mark.parametrize("path", ["/me", "/me-async"])
    def test_view_has_current_session(self, site, bearer, token, path):
        for headers in (bearer, {"Cookie": f"a=b; session={token}"}):
            answer = site.ask(path, **headers)
            assert (answer.status, answer.body) == (200, "test1@example.com"), site.said

    def test_streamed_response_has_session_of_request(self, site, bearer):
        assert site.ask("/stream", **bearer).body == "test1@example.com" * 2

    def test_request_without_valid_session_is_refused(self, site, sample_address, bearer, token):
        assert site.ask("/me", **bearer).status == 200
        with connect(sample_address) as auth:
            auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

        until(lambda: site.ask("/me", **bearer).status == 401)
        assert site.ask("/me", **bearer).json["reason"] == "SESSION_REVOKED"
        unknown = site.ask("/me", Authorization="Bearer tms_unknown")
        assert (unknown.status, unknown.json["reason"]) == (401, "SESSION_UNKNOWN")
        assert unknown.headers["WWW-Authenticate"] == "Bearer"
        assert unknown.headers["Content-Type"] == "application/problem+json"
        assert site.ask("/me").status == 401

    def test_open_and_optional_paths_need_no_session(self, site, bearer):
        assert site.ask("/health", **bearer).body == "None"
        assert site.ask("/start").body == "None"
        assert "test1@example.com" in site.ask("/start", **bearer).body
        assert site.ask("/start", Authorization="Bearer tms_unknown").status == 401

    @pytest.mark.parametrize("path", ["/plain", "/plain-async"])
    def test_preflight_passes_without_session_to_no_view(self, site, bearer, path):
        asked = {"Origin": "https://shop.test", "Access_Control_Request_Method": "GET"}

        assert site.ask("/start", method="OPTIONS", **asked).body == "None"
        assert site.ask("/health", method="OPTIONS", **asked).body == "None"
        assert site.ask(path, method="OPTIONS", **asked).status == 401
        assert site.ask(path, method="OPTIONS", **asked, **bearer).body == "plain"
        assert site.ask(path, method="OPTIONS").status == 401

    @pytest.mark.parametrize("path", ["/me", "/me-async"])
    def test_view_that_answers_preflight_has_session(self, site, bearer, path):
        asked = {"Origin": "https://shop.test", "Access_Control_Request_Method": "GET"}

        assert site.ask(path, method="OPTIONS", **asked, **bearer).body == "test1@example.com"

    def test_inner_middleware_answers_preflight_without_session(self, site):
        asked = {"Origin": "https://shop.test", "Access_Control_Request_Method": "GET"}

        assert site.ask("/me?cors", method="OPTIONS", **asked).body == "answered"


@pytest.mark.parametrize("start", STARTS)
def test_view_needs_step_up_of_its_path(fake, tmp_path, start):
    (tmp_path / "app.py").write_text(SITE)
    ada = fake.add_user("ada@example.com")
    weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
    env = {"AUTH": fake.address, "MIDDLEWARE": "guarded"}
    with running_site(tmp_path, *STARTS[start], **env) as site:
        for path in ("/pay/one", "/pay/async"):
            refused = site.ask(path, Authorization=f"Bearer {weak}")
            assert site.ask(path, Authorization=f"Bearer {strong}").body == "plain"
            assert (refused.status, refused.json["reason"]) == (401, "STEP_UP_REQUIRED")
            assert 'acr_values="AAL2"' in refused.headers["WWW-Authenticate"]
        assert site.ask("/me", Authorization=f"Bearer {weak}").status == 200


@pytest.mark.parametrize("start", STARTS)
def test_closed_client_of_django_is_500_and_logged(sample_address, bearer, tmp_path, start):
    (tmp_path / "app.py").write_text(SITE)
    env = {"AUTH": sample_address, "MIDDLEWARE": "broken"}
    with running_site(tmp_path, *STARTS[start], **env) as site:
        assert site.ask("/me", **bearer).status == 500
        until(lambda: "ValueError: Cannot invoke RPC" in site.said)


def test_django_middleware_with_asyncio_guard_is_refused():
    with pytest.raises(TypeError, match="this middleware needs a guard of tamatar_auth"):
        session_middleware(aio.SessionGuard(aio.connect("127.0.0.1:1")))
