"""Session guards: a call to a guarded server has a valid session, or is refused."""

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
import pytest
from grpc import StatusCode

from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest, RevokeUserSessionsRequest
from tamatar_auth import client
from tamatar_auth.client import SessionGuard, aio, current_session
from tests.support.calls import refusal
from tests.support.guarded_shop import (
    KINDS,
    SHOP,
    SHOPS,
    Asyncio,
    Customer,
    aio_shop,
    blocking_shop,
    shop,
)
from tests.support.waiting import PATIENCE

UNKNOWN = (StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN")
REVOKED = (StatusCode.UNAUTHENTICATED, "SESSION_REVOKED")


@pytest.fixture(params=SHOPS)
async def channel(request, service):
    """A channel to a shop that calls the real service."""
    methods = {
        "open_methods": ["shop.v1.Shop/Open"],
        "optional_methods": ["/shop.v1.Shop/Optional"],
    }
    async with shop(request.param, str(service.addresses[0]), **methods) as channel:
        yield channel


class TestCurrentSession:
    """The session of a guarded call."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_every_kind_of_call_has_current_session(self, channel, signed_in, kind):
        customer = Customer(channel, (await signed_in()).session_token)

        answers = await customer.ask(kind)

        assert answers
        assert {answer.split()[0] for answer in answers} == {b"ada@example.com"}

    async def test_concurrent_calls_have_their_own_sessions(self, channel, signed_in):
        emails = [f"user{number}@example.com" for number in range(8)]
        tokens = [(await signed_in(email)).session_token for email in emails]

        async def several(email, token):
            for kind in KINDS * 3:
                answers = await Customer(channel, token).ask(kind)
                assert {answer.split()[0].decode() for answer in answers} == {email}

        await asyncio.gather(*map(several, emails, tokens))
        assert await refusal(Customer(channel).ask("unary_unary")) == UNKNOWN

    def test_current_session_outside_a_call_raises(self):
        with pytest.raises(LookupError):
            current_session()


class Stubborn(Asyncio):
    """A handler that swallows cancellations, and then ends or continues."""

    async def unary_stream(self, request, _context):
        yield b"1"
        for _ in range(int(request)):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class Token:
    """The caller's token, in a file that may be unreadable."""

    def __init__(self):
        self.is_away = False

    def __call__(self):
        if self.is_away:
            raise RuntimeError("tmc_secret")
        return "tmc_secret"


class TestStreams:
    """Streams whose session ends while they run."""

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_bidirectional_stream_ends_when_session_is_revoked(
        self, service, auth, signed_in, kind
    ):
        started = await signed_in()
        async with shop(kind, str(service.addresses[0]), recheck=0.05) as channel:
            stream = Customer(channel, started.session_token).stream()
            await stream.write(b"1")
            assert await stream.read() == b"ada@example.com 1"
            request = RevokeUserSessionsRequest(user_id=started.user.user_id)
            await auth.sessions.RevokeUserSessions(request)

            async def talk():
                while True:
                    # A blocking handler is checked when a message arrives, so it needs one. A
                    # coroutine ends on its own. A write that meets this end gets INTERNAL from
                    # grpc.aio, whatever the server's status is.
                    if kind.startswith("blocking"):
                        await stream.write(b"2")
                    await stream.read()
                    await asyncio.sleep(0.01)

            with pytest.raises(grpc.aio.AioRpcError):
                await talk()
            assert await stream.code() is StatusCode.UNAUTHENTICATED
            assert "revoked" in await stream.details()

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_response_stream_ends_when_session_is_revoked(
        self, service, auth, signed_in, kind
    ):
        token = (await signed_in()).session_token
        async with shop(kind, str(service.addresses[0]), recheck=0.05) as channel:
            metadata = Customer(channel, token).metadata
            answers = channel.unary_stream(SHOP + "unary_stream")(b"1000000000", metadata=metadata)
            assert await anext(aiter(answers)) == b"ada@example.com"
            await auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

            async def read_all():
                async for _ in answers:
                    await asyncio.sleep(0.001)

            assert await refusal(read_all()) == REVOKED

    @pytest.mark.parametrize("times", [1, 3])
    async def test_handler_that_swallows_cancellation_is_ended(self, fake, monkeypatch, times):
        monkeypatch.setitem(SHOPS, "stubborn", Stubborn)
        monkeypatch.setattr(aio.guard, "CANCEL_INTERVAL", 0.05)
        token = fake.start_session(fake.add_user("ada@example.com"))
        async with shop("stubborn", fake.address, recheck=0.05) as channel:
            metadata = Customer(channel, token).metadata
            request = str(times).encode()
            answers = channel.unary_stream(SHOP + "unary_stream")(request, metadata=metadata)
            assert await answers.read() == b"1"

            fake.revoke(token)

            async with asyncio.timeout(PATIENCE):
                assert await refusal(answers.read()) == REVOKED

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_stream_with_valid_session_continues(self, service, signed_in, kind):
        token = (await signed_in()).session_token
        async with shop(kind, str(service.addresses[0]), recheck=0.01) as channel:
            stream = Customer(channel, token).stream()
            for number in range(20):
                await stream.write(str(number).encode())
                assert await stream.read() == f"ada@example.com {number}".encode()
                await asyncio.sleep(0.01)

    @pytest.mark.parametrize("kind", SHOPS)
    @pytest.mark.parametrize("cause", ["outage", "error"])
    async def test_stream_that_cannot_be_rechecked_ends(self, fake, kind, cause):
        started, token = fake.start_session(fake.add_user("ada@example.com")), Token()
        options = {"own_token": token, "recheck": 0.05, "max_age": 0}
        async with shop(kind, fake.address, **options) as channel:
            metadata = Customer(channel, started).metadata
            answers = channel.unary_stream(SHOP + "unary_stream")(b"1000000000", metadata=metadata)
            assert await anext(aiter(answers)) == b"ada@example.com"
            token.is_away, fake.is_available = cause == "error", cause == "error"

            async def read_all():
                async with asyncio.timeout(PATIENCE):
                    async for _ in answers:
                        await asyncio.sleep(0.001)

            expected = {"outage": StatusCode.UNAVAILABLE, "error": StatusCode.INTERNAL}[cause]
            assert (await refusal(read_all()))[0] is expected


class TestCredentials:
    """Tokens that a call must show."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_every_kind_of_call_needs_a_valid_session(self, channel, auth, signed_in, kind):
        token = (await signed_in()).session_token
        await auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

        assert await Customer(channel, token).refused(kind) == REVOKED
        for unknown in (None, "", "tms_unknown", "x" * 129, "tms_a b"):
            assert await Customer(channel, unknown).refused(kind) == UNKNOWN

    async def test_token_needs_bearer_scheme_in_any_case(self, channel, signed_in):
        token = (await signed_in()).session_token

        assert await Customer(channel, token, scheme="bEARER  ").ask("unary_unary")
        for scheme in ("", "Basic ", "Bearer"):
            assert (
                await refusal(Customer(channel, token, scheme=scheme).ask("unary_unary")) == UNKNOWN
            )
        two = Customer(channel, token)
        two.metadata += Customer(channel, "tms_another").metadata
        assert await refusal(two.ask("unary_unary")) == UNKNOWN

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_unreadable_caller_token_is_not_exposed(self, scripted, kind, caplog):
        token = Token()
        token.is_away = True
        async with shop(kind, scripted.address, own_token=token) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await Customer(channel, "tms_one").ask("unary_unary")

        assert raised.value.code() is StatusCode.INTERNAL
        assert "tmc_secret" not in f"{raised.value.details()}"
        assert "the check of a session failed: RuntimeError" in caplog.text
        assert "test_guard.py" in caplog.text
        assert not [each for each in caplog.records if "tmc_secret" in each.getMessage()]

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_token_may_have_another_metadata_key(self, service, signed_in, kind):
        token = (await signed_in()).session_token
        async with shop(kind, str(service.addresses[0]), metadata_key="x-session") as channel:
            there = Customer(channel, token, key="x-session", scheme="")
            assert await there.ask("unary_unary") == [b"ada@example.com 1"]
            assert await refusal(Customer(channel, token).ask("unary_unary")) == UNKNOWN


class TestMethods:
    """Methods that need no session, and outages."""

    async def test_open_methods_have_no_session(self, channel, signed_in):
        token = (await signed_in()).session_token

        for given in (None, "tms_unknown", token):
            assert await Customer(channel, given).ask("unary_unary", "Open") == [b"anonymous 1"]

    async def test_optional_session_of_call_may_be_absent_but_not_invalid(self, channel, signed_in):
        token = (await signed_in()).session_token

        assert await Customer(channel).ask("unary_unary", "Optional") == [b"anonymous 1"]
        assert await Customer(channel, token).ask("unary_unary", "Optional") == [
            b"ada@example.com 1"
        ]
        bad = Customer(channel, "tms_unknown").ask("unary_unary", "Optional")
        assert await refusal(bad) == UNKNOWN

    async def test_missing_method_of_guarded_server_is_unimplemented(self, channel):
        call = channel.unary_unary(SHOP + "Nothing")(b"")

        assert (await refusal(call))[0] is StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize("kind", SHOPS)
    @pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.PERMISSION_DENIED])
    async def test_call_during_outage_of_service_is_unavailable(self, scripted, kind, code, caplog):
        scripted.refusals = [code] * 100
        async with shop(kind, scripted.address) as channel:
            assert await refusal(Customer(channel, "tms_one").ask("unary_unary")) == (
                StatusCode.UNAVAILABLE,
                "",
            )
        assert "a session cannot be checked" in caplog.text
        assert "tms_one" not in caplog.text

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_lasting_error_of_service_is_internal(self, scripted, kind, caplog):
        scripted.refusals = [StatusCode.INTERNAL] * 100
        async with shop(kind, scripted.address) as channel:
            assert await refusal(Customer(channel, "tms_one").ask("unary_unary")) == (
                StatusCode.INTERNAL,
                "",
            )
        assert "the check of a session failed: INTERNAL" in caplog.text

    @pytest.mark.parametrize("kind", SHOPS)
    async def test_closed_client_is_internal_and_logged(self, fake, kind, caplog):
        async with contextlib.AsyncExitStack() as stack:
            if SHOPS[kind] is None:
                auth = client.connect(fake.address)
                running = blocking_shop(SessionGuard(auth, max_age=0))
                auth.close()
            else:
                closed = aio.connect(fake.address)
                running = aio_shop(aio.SessionGuard(closed, max_age=0), SHOPS[kind]())
                await closed.close()
            address = await stack.enter_async_context(running)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            status, _ = await refusal(Customer(channel, "tms_one").ask("unary_unary"))

        assert status is StatusCode.INTERNAL
        assert "the check of a session failed" in caplog.text

    def test_guard_with_client_of_other_kind_is_refused(self):
        for guard, module in ((SessionGuard, aio), (aio.SessionGuard, client)):
            with pytest.raises(TypeError, match="this guard needs a client of"):
                guard(module.connect("localhost:1"))

    def test_health_and_reflection_are_open_by_default(self):
        def handler_of(guard, method):
            return guard.intercept_service(lambda _: handler, SimpleNamespace(method=method))

        handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
        with client.connect("localhost:1") as auth:
            guard, strict = SessionGuard(auth), SessionGuard(auth, open_methods=())

            assert handler_of(guard, "/grpc.health.v1.Health/Check") is handler
            assert handler_of(guard, "/grpc.reflection.v1.ServerReflection/Any") is handler
            assert handler_of(guard, "/grpc.health.v1.HealthCare/Check") is not handler
            assert handler_of(strict, "/grpc.health.v1.Health/Check") is not handler

    def test_string_in_place_of_list_of_methods_is_refused(self):
        with client.connect("localhost:1") as auth:
            for option in ("open_methods", "optional_methods"):
                with pytest.raises(TypeError, match="expected a list of names"):
                    SessionGuard(auth, **{option: "shop.v1.Shop"})
