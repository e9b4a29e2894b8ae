"""The ASGI middleware, called as an ASGI server calls it."""

import asyncio
import contextvars
import json
from datetime import timedelta
from typing import Annotated, ClassVar

import grpc
import pytest
from fastapi import Depends, FastAPI, WebSocket
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar_auth.client import (
    AAL1,
    AAL2,
    AuthError,
    CurrentSession,
    SessionGuard,
    StepUp,
    aio,
    connect,
    find_current_session,
)
from tamatar_auth.client.asgi import SCOPE_KEY, SessionMiddleware
from tamatar_auth.client.fastapi import require_step_up


async def application(scope, receive, send):
    """Answers with the signed-in user's address."""
    session = find_current_session()
    assert scope.get(SCOPE_KEY) is session
    body = session.user.email.encode() if session else b"anonymous"
    if scope["type"] == "http":
        headers = [(b"Access-Control-Allow-Origin", b"*")] if scope["path"] == "/cors" else []
        status = 403 if scope["path"] == "/error" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.send", "text": "not to be seen"})
        assert message["type"] == "websocket.disconnect"
    else:
        await send({"type": f"{scope['type']}.startup.complete"})


async def asked(app, path="/", headers=(), kind="http", method="GET", root="", **more):
    """Return the messages that an application sends."""
    sent = []

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "root_path": root, **more}
    scope["headers"] = [*headers]
    await app(scope, receive, send)
    return sent


async def answer(app, *args, **named):
    """Return status and body of an HTTP response."""
    start, body = await asked(app, *args, **named)
    assert all(isinstance(part, bytes) for header in start["headers"] for part in header)
    return start["status"], body["body"]


async def refusal(app, *args, **named):
    """Return status and reason of an HTTP refusal."""
    status, body = await answer(app, *args, **named)
    problem = json.loads(body)
    assert problem["status"] == status
    return status, problem.get("reason")


def bearer(token):
    return (b"authorization", b"Bearer " + token.encode())


def cookies(text):
    return (b"cookie", text.encode())


@pytest.fixture
def guard(auth):
    return aio.SessionGuard(auth, recheck=0, max_age=0)


@pytest.fixture
def app(guard):
    return SessionMiddleware(
        application,
        guard,
        open_paths=["/health", "/static/*"],
        optional_paths=["/home"],
        cookie="session",
    )


class TestSessions:
    """The session that a request must have."""

    async def test_request_with_valid_session_has_its_user(self, app, signed_in):
        token = (await signed_in()).session_token

        assert await answer(app, headers=[bearer(token)]) == (200, b"ada@example.com")
        there = [cookies(f"a=b; session={token}"), cookies("c=d")]
        assert await answer(app, headers=there) == (200, b"ada@example.com")
        assert find_current_session() is None

    async def test_request_without_valid_session_is_refused_with_reason(self, app, auth, signed_in):
        token = (await signed_in()).session_token
        await auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

        assert await refusal(app, headers=[bearer(token)]) == (401, "SESSION_REVOKED")
        for headers in (
            [],
            [bearer("")],
            [bearer("tms_unknown")],
            [(b"authorization", b"Basic " + token.encode())],
            [bearer(token), bearer(token)],
            [cookies("session=")],
            [cookies(f"session={token}; session=tms_other")],
            [cookies(f"sessions={token}")],
        ):
            assert await refusal(app, headers=headers) == (401, "SESSION_UNKNOWN")
        (start, _) = await asked(app)
        assert (b"www-authenticate", b"Bearer") in start["headers"]

    async def test_cookie_is_ignored_unless_configured(self, guard, signed_in):
        token = (await signed_in()).session_token
        app = SessionMiddleware(application, guard)

        assert (await refusal(app, headers=[cookies(f"session={token}")]))[0] == 401

    async def test_authorization_header_precedes_cookie(self, app, signed_in):
        token = (await signed_in()).session_token

        headers = [bearer("tms_unknown"), cookies(f"session={token}")]
        assert (await refusal(app, headers=headers))[0] == 401

    async def test_optional_session_may_be_absent_but_not_invalid(self, app, signed_in):
        token = (await signed_in()).session_token

        assert await answer(app, "/home") == (200, b"anonymous")
        assert await answer(app, "/home", [bearer(token)]) == (200, b"ada@example.com")
        assert (await refusal(app, "/home", [bearer("tms_unknown")]))[0] == 401

    async def test_request_during_outage_of_service_is_unavailable(self):
        async with aio.connect("127.0.0.1:1") as auth:
            app = SessionMiddleware(application, aio.SessionGuard(auth))

            assert await refusal(app, headers=[bearer("tms_one")]) == (503, None)
            (closed,) = await asked(app, headers=[bearer("tms_one")], kind="websocket")
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)


class TestErrors:
    """Errors that do not pass with time. The framework answers them with 500."""

    async def test_closed_client_raises_instead_of_try_later(self):
        auth = aio.connect("127.0.0.1:1")
        app = SessionMiddleware(application, aio.SessionGuard(auth))
        await auth.close()

        with pytest.raises(grpc.aio.UsageError, match="the client is closed"):
            await asked(app, headers=[bearer("tms_one")])

    async def test_error_of_token_function_raises(self):
        async with aio.connect("127.0.0.1:1", token=lambda: len(None)) as auth:
            app = SessionMiddleware(application, aio.SessionGuard(auth))

            with pytest.raises(TypeError):
                await asked(app, headers=[bearer("tms_one")])

    @pytest.mark.parametrize("code", [StatusCode.INTERNAL, StatusCode.UNIMPLEMENTED])
    async def test_lasting_error_of_service_raises(self, scripted, code):
        scripted.refusals = [code] * 10
        async with aio.connect(scripted.address) as auth:
            app = SessionMiddleware(application, aio.SessionGuard(auth, max_age=0))

            with pytest.raises(AuthError, match=code.name):
                await asked(app, headers=[bearer("tms_one")])

    @pytest.mark.parametrize(
        "code",
        [
            *(StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED),
            *(StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED),
        ],
    )
    async def test_passing_error_of_service_is_unavailable(self, scripted, code):
        scripted.refusals = [code] * 10
        async with aio.connect(scripted.address) as auth:
            app = SessionMiddleware(application, aio.SessionGuard(auth, max_age=0))

            assert await refusal(app, headers=[bearer("tms_one")]) == (503, None)

    def test_guard_of_blocking_client_is_refused(self):
        with connect("127.0.0.1:1") as auth, pytest.raises(TypeError, match=r"client\.aio"):
            SessionMiddleware(application, SessionGuard(auth))


class TestPreflights:
    """Preflights of CORS, which browsers send without credentials."""

    HEADERS: ClassVar = [
        (b"origin", b"https://shop.test"),
        (b"access-control-request-method", b"PUT"),
    ]

    @pytest.mark.parametrize(
        ("path", "status"), [("/cors", 200), ("/error", 403), ("/home", 200), ("/health", 200)]
    )
    async def test_preflight_needs_no_session(self, app, path, status):
        answered = await answer(app, path, self.HEADERS, method="OPTIONS")

        assert answered == (status, b"anonymous")

    async def test_token_of_preflight_is_not_checked(self, app):
        headers = [*self.HEADERS, bearer("tms_unknown")]

        assert await answer(app, "/cors", headers, method="OPTIONS") == (200, b"anonymous")

    async def test_answer_of_handler_to_preflight_is_withheld(self, app):
        refused = await refusal(app, "/orders", self.HEADERS, method="OPTIONS")

        assert refused == (401, "SESSION_UNKNOWN")

    @pytest.mark.parametrize(
        ("method", "names"),
        [
            ("OPTIONS", []),
            ("OPTIONS", [b"origin"]),
            ("OPTIONS", [b"access-control-request-method"]),
            ("GET", [b"origin", b"access-control-request-method"]),
        ],
    )
    async def test_request_like_a_preflight_needs_a_session(self, app, method, names):
        headers = [(name, b"GET") for name in names]

        assert (await refusal(app, "/cors", headers, method=method))[0] == 401

    async def test_websocket_like_a_preflight_needs_a_session(self, app):
        headers = [(b"origin", b"https://shop.test"), (b"access-control-request-method", b"GET")]

        (closed,) = await asked(app, headers=headers, kind="websocket", method="OPTIONS")

        assert closed["code"] == 4401


class TestWebsockets:
    """Websockets, and scopes of other types."""

    async def test_websocket_without_valid_session_is_closed_unopened(self, app):
        (closed,) = await asked(app, kind="websocket")

        assert closed == {"type": "websocket.close", "code": 4401, "reason": "SESSION_UNKNOWN"}

    async def test_websocket_of_revoked_session_is_closed(self, app, auth, signed_in):
        token = (await signed_in()).session_token
        said, sent = asyncio.Queue(), asyncio.Queue()
        said.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/", "headers": [bearer(token)]}
        talking = asyncio.create_task(app(scope, said.get, sent.put))
        assert (await sent.get())["type"] == "websocket.accept"

        said.put_nowait({"type": "websocket.receive", "text": "one"})
        assert (await sent.get())["text"] == "one"
        await auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))
        said.put_nowait({"type": "websocket.receive", "text": "two"})

        assert await sent.get() == {
            "type": "websocket.close",
            "code": 4401,
            "reason": "SESSION_REVOKED",
        }
        await talking
        assert sent.empty()

    async def test_lifespan_is_passed_to_application(self, app):
        assert await asked(app, kind="lifespan") == [{"type": "lifespan.startup.complete"}]

    async def test_abandoned_application_raises_nothing(self, app, signed_in):
        said, sent = asyncio.Queue(), asyncio.Queue()
        said.put_nowait({"type": "websocket.connect"})
        token = (await signed_in()).session_token
        scope = {"type": "websocket", "path": "/", "headers": [bearer(token)]}
        running = app(scope, said.get, sent.put)
        talking = asyncio.create_task(running)
        assert (await sent.get())["type"] == "websocket.accept"

        contextvars.Context().run(running.close)

        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)

    async def test_unknown_scope_type_is_not_passed(self, app):
        reached = await asked(app, kind="webtransport")

        assert "webtransport.startup.complete" not in {message["type"] for message in reached}


class TestPaths:
    """Paths that need a session, and paths that do not."""

    @pytest.mark.parametrize("path", ["/health", "/static/style.css", "/static/a/b"])
    async def test_open_paths_need_no_session(self, app, path):
        assert await answer(app, path) == (200, b"anonymous")
        assert await answer(app, path, headers=[bearer("tms_unknown")]) == (200, b"anonymous")

    @pytest.mark.parametrize(
        "path",
        [
            *("/health/", "/healthy", "/static", "/statically", "/Health"),
            *(
                "/static/../orders",
                "/static/..",
                "/static//orders",
                "/static/./x",
                "/static/\\..\\x",
            ),
        ],
    )
    async def test_paths_like_open_ones_need_a_session(self, app, path):
        assert (await refusal(app, path))[0] == 401

    @pytest.mark.parametrize("root", ["/shop", "/shop/"])
    async def test_paths_are_those_below_the_mounted_prefix(self, app, root):
        assert (await answer(app, "/shop/health", root=root))[0] == 200
        assert (await refusal(app, "/shop/orders", root=root))[0] == 401
        assert (await refusal(app, "/shophealth", root=root))[0] == 401
        assert (await refusal(app, "/shop/shop/health", root=root))[0] == 401

    def test_string_in_place_of_list_of_paths_is_refused(self, guard):
        for option in ("open_paths", "optional_paths"):
            with pytest.raises(TypeError, match="expected a list of names"):
                SessionMiddleware(application, guard, **{option: "/health"})


class TestStepUp:
    """Paths that need a stronger or a more recent authentication."""

    STEP_UP: ClassVar = {
        "/pay": StepUp(level=AAL2, max_age=timedelta(minutes=5)),
        "/admin/*": StepUp(level=AAL2),
        "/admin/log": StepUp(level=AAL1),
        "/recent": StepUp(max_age=timedelta(hours=1)),
        "/fraction": StepUp(max_age=timedelta(seconds=90.5)),
    }

    @pytest.fixture
    async def app(self, fake):
        async with aio.connect(fake.address) as auth:
            guard = aio.SessionGuard(auth, recheck=0, max_age=0)
            yield SessionMiddleware(
                application, guard, step_up=self.STEP_UP, open_paths=["/admin/health"]
            )

    @pytest.fixture
    def weak(self, fake):
        ada = fake.add_user("ada@example.com")
        return [bearer(fake.start_session(ada, authentication_age=timedelta(days=1)))]

    @pytest.fixture
    def strong(self, fake):
        return [bearer(fake.start_session(fake.add_user("bob@example.com"), level=AAL2))]

    @pytest.mark.parametrize(
        ("path", "wanted"),
        [
            ("/pay", 'acr_values="AAL2", max_age="300"'),
            ("/admin/users", 'acr_values="AAL2"'),
            ("/recent", 'max_age="3600"'),
            ("/fraction", 'max_age="90"'),
        ],
    )
    async def test_refusal_asks_for_step_up_by_rfc_9470(self, app, weak, strong, path, wanted):
        (start, body) = await asked(app, path, weak)
        header = f'Bearer error="insufficient_user_authentication", {wanted}'

        assert start["status"] == 401
        assert (b"www-authenticate", header.encode()) in start["headers"]
        assert json.loads(body["body"])["reason"] == "STEP_UP_REQUIRED"
        assert (await answer(app, path, strong))[0] == 200

    @pytest.mark.parametrize(
        "path",
        [
            *("/pay/", "//pay", "/./pay", "/x/../pay", "/x\\..\\pay", "/pay/."),
            *("/admin", "/admin/", "/admin/a/b", "/admin/log/more", "/admin/health/"),
        ],
    )
    async def test_paths_like_those_with_step_up_need_it(self, app, weak, strong, path):
        assert await refusal(app, path, weak) == (401, "STEP_UP_REQUIRED")
        assert (await answer(app, path, strong))[0] == 200

    @pytest.mark.parametrize("path", ["/", "/payment", "/pay/more", "/administer", "/admin/log"])
    async def test_other_paths_need_no_step_up(self, app, weak, path):
        assert (await answer(app, path, weak))[0] == 200

    async def test_open_path_below_prefix_is_open(self, app):
        assert await answer(app, "/admin/health") == (200, b"anonymous")

    async def test_step_up_needs_a_session_first(self, app):
        assert await refusal(app, "/pay") == (401, "SESSION_UNKNOWN")

    async def test_websocket_without_step_up_is_closed_unopened(self, app, weak):
        (closed,) = await asked(app, "/pay", weak, kind="websocket")

        assert closed == {"type": "websocket.close", "code": 4401, "reason": "STEP_UP_REQUIRED"}

    async def test_open_websocket_may_grow_old(self, app, fake, strong):
        said, sent = asyncio.Queue(), asyncio.Queue()
        said.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/pay", "headers": strong}
        talking = asyncio.create_task(app(scope, said.get, sent.put))
        assert (await sent.get())["type"] == "websocket.accept"

        fake.advance(timedelta(hours=1))
        said.put_nowait({"type": "websocket.receive", "text": "one"})
        assert (await sent.get())["text"] == "one"
        fake._store.sessions.get_by_token(strong[0][1].decode()[7:]).session.assurance_level = AAL1
        said.put_nowait({"type": "websocket.receive", "text": "two"})

        assert (await sent.get())["reason"] == "STEP_UP_REQUIRED"
        await talking

    @pytest.mark.parametrize("option", ["open_paths", "optional_paths"])
    @pytest.mark.parametrize("name", ["/pay", "/*"])
    async def test_step_up_of_open_path_is_refused(self, guard, option, name):
        with pytest.raises(ValueError, match="/pay needs a step-up, so it cannot be open"):
            SessionMiddleware(
                application, guard, step_up={"/pay": StepUp(level=AAL2)}, **{option: [name]}
            )

    @pytest.mark.parametrize(
        "name",
        [
            *("", "pay", "/pay*", "/pay/**", "/*/pay", "//pay", "/a/../pay", "/pay?now=1"),
            *("/orders/{number}/pay", "/orders/<int:number>/pay", "https://example.com/pay"),
        ],
    )
    async def test_step_up_of_no_path_is_refused(self, guard, name):
        with pytest.raises(ValueError, match="is no path, such as /pay"):
            SessionMiddleware(application, guard, step_up={name: StepUp(level=AAL2)})

    @pytest.mark.parametrize("given", [{"/pay": AAL2}, {"/pay": None}, ["/pay"]])
    async def test_step_up_of_another_type_is_refused(self, guard, given):
        with pytest.raises(TypeError, match=r"step_up must map .* StepUp"):
            SessionMiddleware(application, guard, step_up=given)


class TestFastApi:
    """The dependency on a step-up, for routes with parameters."""

    @pytest.mark.parametrize("needed", [AAL2, None])
    def test_dependency_on_no_step_up_is_refused(self, needed):
        with pytest.raises(TypeError, match="needs an instance of StepUp"):
            require_step_up(needed)

    @pytest.fixture
    async def app(self, fake):
        app, needed = FastAPI(), StepUp(level=AAL2, max_age=timedelta(minutes=5))

        async def pay(
            number: int, session: Annotated[CurrentSession, Depends(require_step_up(needed))]
        ) -> str:
            return f"{session.user.email} paid {number}"

        async def chat(
            socket: WebSocket, session: Annotated[CurrentSession, Depends(require_step_up(needed))]
        ) -> None:
            raise AssertionError(session)

        app.add_api_route("/orders/{number}/pay", pay)
        app.add_api_websocket_route("/orders/{number}/chat", chat)
        async with aio.connect(fake.address) as auth:
            app.add_middleware(
                SessionMiddleware,
                aio.SessionGuard(auth, max_age=0),
                optional_paths=["/orders/7/pay"],
            )
            yield app

    async def test_route_needs_step_up_of_its_dependency(self, app, fake):
        ada = fake.add_user("ada@example.com")
        weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
        path, scope = "/orders/1/pay", {"query_string": b""}

        start, _ = await asked(app, path, [bearer(weak)], **scope)
        assert start["status"] == 401
        challenge = b'Bearer error="insufficient_user_authentication", acr_values="AAL2"'
        assert (b"www-authenticate", challenge) in start["headers"]
        assert await answer(app, path, [bearer(strong)], **scope) == (
            200,
            b'"ada@example.com paid 1"',
        )
        assert (await asked(app, "/orders/7/pay", **scope))[0]["status"] == 401
        fake.is_available = False
        assert (await asked(app, path, [bearer(strong)], **scope))[0]["status"] == 503

    async def test_websocket_without_step_up_is_refused(self, app, fake):
        token = fake.start_session(fake.add_user("ada@example.com"))

        (closed,) = await asked(
            app, "/orders/1/chat", [bearer(token)], kind="websocket", query_string=b""
        )

        assert (closed["code"], closed["reason"]) == (4401, "STEP_UP_REQUIRED")
