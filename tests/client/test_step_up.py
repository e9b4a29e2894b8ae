"""Methods that need a stronger or a more recent authentication than any session has."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc import StatusCode
from grpc_status import rpc_status

from tamatar.auth.v1.session_service_pb2 import (
    BeginStepUpRequest,
    CompleteStepUpRequest,
    ValidateSessionRequest,
)
from tamatar_auth import client
from tamatar_auth.client import AAL1, AAL2, SessionGuard, StepUp, StepUpRequiredError
from tests.support.calls import refusal
from tests.support.factors import confirm, create_app
from tests.support.guarded_shop import KINDS, SHOPS, Customer, shop
from tests.support.waiting import PATIENCE

FIVE_MINUTES, TEN_MINUTES = timedelta(minutes=5), timedelta(minutes=10)
PAY = "shop.v1.Shop/unary_unary"
REQUIRED = (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
STRONG = {"step_up": {PAY: StepUp(level=AAL2)}}
RECENT = {"step_up": {PAY: StepUp(max_age=FIVE_MINUTES)}}
CACHES = {"cached": {}, "not cached": {"max_age": 0}}


@pytest.fixture
def ada(fake):
    return fake.add_user("ada@example.com")


async def details(customer, kind="unary_unary"):
    """Make a call that must fail, and return the metadata of its reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await customer.ask(kind)
    (detail,) = rpc_status.from_call(caught.value).details
    info = ErrorInfo()
    assert detail.Unpack(info)
    assert info.reason == "STEP_UP_REQUIRED"
    return dict(info.metadata)


@pytest.mark.parametrize("kind", SHOPS)
@pytest.mark.parametrize("cache", CACHES)
class TestGuards:
    """What a session needs for a method, with every guard."""

    async def test_method_needs_level_of_its_step_up(self, fake, ada, kind, cache):
        weak, strong = fake.start_session(ada), fake.start_session(ada, level=AAL2)
        async with shop(kind, fake.address, **STRONG, **CACHES[cache]) as channel:
            for _ in range(2):
                assert await Customer(channel, strong).ask("unary_unary")
                assert await Customer(channel, weak).ask("unary_unary", "Open")
                assert await details(Customer(channel, weak)) == {"assurance_level": "AAL2"}

    async def test_method_needs_age_of_its_step_up(self, fake, ada, kind, cache):
        recent = fake.start_session(ada)
        old = fake.start_session(ada, level=AAL2, authentication_age=TEN_MINUTES)
        async with shop(kind, fake.address, **RECENT, **CACHES[cache]) as channel:
            for _ in range(2):
                assert await Customer(channel, recent).ask("unary_unary")
                assert await Customer(channel, old).ask("unary_unary", "Open")
                missing = await details(Customer(channel, old))
                assert missing == {"max_authentication_age": "300"}

    async def test_every_kind_of_call_has_step_up_of_its_service(self, fake, ada, kind, cache):
        token = fake.start_session(ada, authentication_age=TEN_MINUTES)
        both = {"/shop.v1.Shop": StepUp(level=AAL2, max_age=FIVE_MINUTES), PAY: StepUp(level=AAL1)}
        async with shop(kind, fake.address, step_up=both, **CACHES[cache]) as channel:
            assert await Customer(channel, token).ask("unary_unary")
            for each in set(KINDS) - {"unary_unary"}:
                assert await Customer(channel, token).refused(each) == REQUIRED

    async def test_session_is_checked_before_its_level(self, fake, ada, kind, cache):
        token = fake.start_session(ada, level=AAL2)
        fake.revoke(token)
        async with shop(kind, fake.address, **STRONG, **CACHES[cache]) as channel:
            there = Customer(channel, token)
            assert await refusal(there.ask("unary_unary")) == (
                StatusCode.UNAUTHENTICATED,
                "SESSION_REVOKED",
            )


@pytest.mark.parametrize("kind", SHOPS)
async def test_cached_session_that_reaches_step_up_needs_no_call(fake, ada, kind):
    both = {"step_up": {PAY: StepUp(level=AAL2, max_age=FIVE_MINUTES)}}
    strong, weak = fake.start_session(ada, level=AAL2), fake.start_session(ada)
    async with shop(kind, fake.address, **both) as channel:
        # The first answers are not cached, because the stream begins beside them.
        async def is_cached(token):
            before = fake.calls["ValidateSession"]
            await Customer(channel, token).ask("unary_unary", "Open")
            return fake.calls["ValidateSession"] == before

        for token in (strong, weak):
            async with asyncio.timeout(PATIENCE):
                while not await is_cached(token):
                    pass

        before = fake.calls["ValidateSession"]
        await Customer(channel, strong).ask("unary_unary")
        assert fake.calls["ValidateSession"] == before
        assert await refusal(Customer(channel, weak).ask("unary_unary")) == REQUIRED
        assert fake.calls["ValidateSession"] == before + 1


@pytest.mark.parametrize("kind", SHOPS)
async def test_running_stream_keeps_its_level_but_may_grow_old(fake, ada, kind):
    needed = {"shop.v1.Shop": StepUp(level=AAL2, max_age=FIVE_MINUTES)}
    token = fake.start_session(ada, level=AAL2)
    async with shop(kind, fake.address, step_up=needed, recheck=0.05, max_age=0) as channel:
        stream = Customer(channel, token).stream()

        async def echoes():
            await stream.write(b"1")
            return await stream.read() == b"ada@example.com 1"

        assert await echoes()
        fake.advance(TEN_MINUTES)
        before = fake.calls["ValidateSession"]
        while fake.calls["ValidateSession"] < before + 3:
            assert await echoes()
        assert await refusal(Customer(channel, token).ask("unary_unary")) == REQUIRED

        record = fake._store.sessions.get_by_token(token)
        record.session.assurance_level = AAL1

        async def talk():
            # A blocking handler is checked when a message arrives. A coroutine ends on its own,
            # and a write that meets this end would get INTERNAL from grpc.aio.
            while kind.startswith("blocking") and await echoes():
                pass
            await stream.read()

        with pytest.raises(grpc.aio.AioRpcError):
            async with asyncio.timeout(PATIENCE):
                await talk()
        assert await stream.code() is StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", SHOPS)
async def test_service_that_ignores_step_up_is_not_trusted(scripted, kind, caplog):
    async with shop(kind, scripted.address, max_age=0, **STRONG) as channel:
        assert await Customer(channel, "tms_one").ask("unary_unary", "Open")
        refused = await refusal(Customer(channel, "tms_one").ask("unary_unary"))

    assert refused == (StatusCode.UNAVAILABLE, "")
    assert "it needs a newer release" in caplog.text
    *_, asked = scripted.asked
    assert ValidateSessionRequest.FromString(asked.request).min_assurance_level == AAL2


class TestConfiguration:
    """Rules that cannot hold."""

    @pytest.mark.parametrize("name", ["shop.v1.Shop/Pay", "/shop.v1.Shop/Pay", "shop.v1.Shop"])
    @pytest.mark.parametrize("option", ["open_methods", "optional_methods"])
    def test_step_up_of_open_method_is_refused(self, option, name):
        with client.connect("localhost:1") as auth:
            for needs in {name.lstrip("/"), "shop.v1.Shop/Pay"}:
                with pytest.raises(ValueError, match=f"{needs} needs a step-up, so it cannot be"):
                    SessionGuard(auth, step_up={needs: StepUp(level=AAL2)}, **{option: [name]})

    def test_open_method_of_service_with_step_up_is_open(self):
        with client.connect("localhost:1") as auth:
            SessionGuard(
                auth,
                step_up={"shop.v1.Shop": StepUp(level=AAL2)},
                open_methods=["shop.v1.Shop/List"],
            )

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"level": 9},
            {"max_age": timedelta(0)},
            {"max_age": timedelta(milliseconds=999)},
            {"max_age": timedelta(days=30, seconds=1)},
        ],
    )
    def test_step_up_beyond_its_bounds_is_refused(self, given):
        with pytest.raises(ValueError, match="StepUp"):
            StepUp(**given)

    @pytest.mark.parametrize("age", [0, 300, "5m"])
    def test_max_age_that_is_no_timedelta_is_refused(self, age):
        with pytest.raises(TypeError, match="must be a timedelta"):
            StepUp(max_age=age)

    @pytest.mark.parametrize(
        "name",
        ["", "*", "shop.v1.Shop/", "shop.v1.Shop/*", "//shop.v1.Shop/Pay", "shop.v1.Shop/Pay "],
    )
    def test_step_up_of_no_method_is_refused(self, name):
        refused = pytest.raises(ValueError, match="is no method, such as shop")
        with client.connect("localhost:1") as auth, refused:
            SessionGuard(auth, step_up={name: StepUp(level=AAL2)})

    @pytest.mark.parametrize("given", [{PAY: AAL2}, {PAY: None}, {1: StepUp(level=AAL2)}, [PAY]])
    def test_step_up_of_another_type_is_refused(self, given):
        refused = pytest.raises(TypeError, match=r"step_up must map .* StepUp")
        with client.connect("localhost:1") as auth, refused:
            SessionGuard(auth, step_up=given)


async def test_error_of_client_says_what_session_lacks(fake, ada):
    token = fake.start_session(ada, authentication_age=TEN_MINUTES)
    request = ValidateSessionRequest(session_token=token, min_assurance_level=AAL2)
    with client.connect(fake.address) as auth:
        with pytest.raises(StepUpRequiredError) as level:
            auth.sessions.ValidateSession(request)
        request.min_assurance_level = AAL1
        request.max_authentication_age.FromTimedelta(FIVE_MINUTES)
        with pytest.raises(StepUpRequiredError) as age:
            auth.sessions.ValidateSession(request)

    assert (level.value.level, level.value.max_age) == (AAL2, None)
    assert (age.value.level, age.value.max_age) == (0, FIVE_MINUTES)
    assert isinstance(age.value, client.SessionError)


@pytest.mark.parametrize("kind", SHOPS)
@pytest.mark.parametrize("cache", CACHES)
async def test_guard_of_real_service_admits_after_step_up(service, auth, signed_in, kind, cache):
    started = await signed_in()
    token = started.session_token
    app = await create_app(auth.factors, started.user)
    await confirm(auth.factors, app)
    async with shop(kind, str(service.addresses[0]), **STRONG, **CACHES[cache]) as channel:
        assert await details(Customer(channel, token)) == {"assurance_level": "AAL2"}
        begun = await auth.sessions.BeginStepUp(BeginStepUpRequest(session_token=token))
        raised = await auth.sessions.CompleteStepUp(
            CompleteStepUpRequest(
                session_token=token,
                challenge_token=begun.challenge.challenge_token,
                totp_code=app.code(1),
            )
        )

        for _ in range(2):
            assert await Customer(channel, raised.session_token).ask("unary_unary")
        assert (await refusal(Customer(channel, token).ask("unary_unary")))[0] is REQUIRED[0]
