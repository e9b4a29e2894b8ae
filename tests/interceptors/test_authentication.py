"""Access of callers: every method, with every kind of caller."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import structlog
from google.protobuf import descriptor_pool
from grpc import StatusCode

from tamatar.auth.v1.diagnostics_service_pb2 import GetCallerRequest
from tamatar.auth.v1.diagnostics_service_pb2_grpc import DiagnosticsServiceStub
from tamatar.auth.v1.user_service_pb2 import CreateUserRequest
from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.interceptors import authentication
from tamatar_auth.interceptors.authentication import AuthenticationInterceptor
from tamatar_auth.interceptors.errors import ErrorInterceptor
from tamatar_auth.interceptors.registry import HandlerRegistry
from tamatar_auth.security import authorization
from tamatar_auth.security.authorization import ACCESS_RULES
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.callers import CallerToken, Role, current_caller
from tamatar_auth.server.app import run_service
from tamatar_auth.server.components import HEALTH_SERVICE, SERVICES
from tamatar_auth.server.ports import StartError
from tamatar_auth.servicers.reflection import V1, V1ALPHA
from tests.chaos.http2_frames import Connection, headers, message
from tests.support.calls import read_refusal, refusal
from tests.support.settings import changed
from tests.support.waiting import PATIENCE

UNKNOWN = (StatusCode.UNAUTHENTICATED, "CALLER_UNKNOWN")
NOT_ALLOWED = (StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
HOUR = timedelta(hours=1)

TOKENS = {role: CallerToken.issue() for role in Role}
EXPIRED = CallerToken.issue()

BOTH = frozenset({"validator", "accounts"})
VALIDATOR, ACCOUNTS, NONE = frozenset({"validator"}), frozenset({"accounts"}), frozenset[str]()
EXPECTED = {
    "UserService": {
        "CreateUser": ACCOUNTS,
        "GetUser": BOTH,
        "BatchGetUsers": BOTH,
        "ListUsers": ACCOUNTS,
        "GetUserStats": ACCOUNTS,
        "UpdateUser": ACCOUNTS,
        "DeactivateUser": ACCOUNTS,
        "ActivateUser": ACCOUNTS,
        "DeleteUser": ACCOUNTS,
        "RestoreUser": ACCOUNTS,
        "PurgeUser": NONE,
        "ChangePassword": ACCOUNTS,
        "CreateEmailVerification": ACCOUNTS,
        "VerifyEmail": ACCOUNTS,
        "CreateEmailChange": ACCOUNTS,
        "ConfirmEmailChange": ACCOUNTS,
        "CreatePasswordReset": ACCOUNTS,
        "ResetPassword": ACCOUNTS,
        "ImportUsers": NONE,
        "ExportUsers": NONE,
    },
    "SessionService": {
        "CreateSession": ACCOUNTS,
        "ValidateSession": VALIDATOR,
        "BatchValidateSessions": VALIDATOR,
        "RefreshSession": ACCOUNTS,
        "GetSession": ACCOUNTS,
        "ListSessions": ACCOUNTS,
        "RevokeSession": ACCOUNTS,
        "RevokeUserSessions": ACCOUNTS,
        "WatchSessions": VALIDATOR,
        "BeginPasskeySignIn": ACCOUNTS,
        "CompleteSignIn": ACCOUNTS,
        "BeginStepUp": ACCOUNTS,
        "CompleteStepUp": ACCOUNTS,
    },
    "FactorService": {
        "CreateTotpFactor": ACCOUNTS,
        "ConfirmTotpFactor": ACCOUNTS,
        "CreateRecoveryCodes": ACCOUNTS,
        "BeginPasskeyRegistration": ACCOUNTS,
        "FinishPasskeyRegistration": ACCOUNTS,
        "ListFactors": ACCOUNTS,
        "UpdateFactor": ACCOUNTS,
        "DeleteFactor": ACCOUNTS,
    },
    "DiagnosticsService": {
        "GetCaller": BOTH,
        "GetDatabaseInfo": NONE,
        "ListSlowestQueries": NONE,
    },
    "ServerReflection": {"ServerReflectionInfo": NONE},
}
"""The roles besides admin that may call a method. security/access.py must agree."""


def methods():
    """Yield path and descriptor of every method that the server answers."""
    pool = descriptor_pool.Default()
    for service in (*SERVICES, HEALTH_SERVICE, V1, V1ALPHA):
        # v1 has no descriptors of its own in grpcio-reflection.
        found = pool.FindServiceByName(V1ALPHA if service == V1 else service)
        for method in found.methods:
            yield f"/{service}/{method.name}", method


METHODS = dict(methods())
GUARDED = [path for path in METHODS if not path.startswith(f"/{HEALTH_SERVICE}/")]
OPEN = [path for path in METHODS if path not in GUARDED]


def write_callers(path, tokens=None):
    lines = []
    for role, token in TOKENS.items():
        expires = datetime.now(UTC) + HOUR
        lines += caller(f"the-{role}", role, {token: expires})
    lines += caller("late", "admin", {EXPIRED: datetime.now(UTC) - HOUR})
    for name, (role, token) in (tokens or {}).items():
        lines += caller(name, role, {token: datetime.now(UTC) + HOUR})
    path.write_text("\n".join(lines))
    return path


def caller(name, role, tokens):
    yield f'[callers.{name}]\nroles = ["{role}"]'
    for token, expires in tokens.items():
        yield f"[[callers.{name}.tokens]]"
        yield f'sha256 = "{token.digest.hex()}"\nexpires = {expires.isoformat()}'


def bearer(token):
    return (("authorization", f"Bearer {token.text}"),)


@pytest.fixture(scope="module")
def callers_file(tmp_path_factory):
    return write_callers(tmp_path_factory.mktemp("callers") / "callers.toml")


@pytest.fixture(scope="module")
async def guarded(settings, callers_file):
    mine = changed(settings, callers_file=callers_file)
    async with run_service(mine) as service:
        yield service


@pytest.fixture(scope="module")
async def channel(guarded):
    async with grpc.aio.insecure_channel(str(guarded.addresses[0])) as channel:
        yield channel


async def call(channel, path, metadata=(), request=b""):
    """Call a method with raw bytes; return the first response of a stream."""
    method = METHODS[path]
    kind = (
        ("unary", "stream")[method.client_streaming]
        + "_"
        + ("unary", "stream")[method.server_streaming]
    )
    invoke = getattr(channel, kind)(path)
    asked = iter([request]) if method.client_streaming else request
    started = invoke(asked, metadata=metadata, timeout=PATIENCE)
    if not method.server_streaming:
        return await started
    answer = await started.read()
    started.cancel()
    return answer


async def refused_or_none(channel, path, metadata=(), request=b""):
    """Return the refusal, or None if the call succeeded."""
    while True:
        try:
            await call(channel, path, metadata, request)
        except grpc.aio.AioRpcError as error:
            said = read_refusal(error)
            # The client ends a stream with this message if the refusal overtakes the request.
            if said.message != "Internal error from Core":
                return said
        else:
            return None


async def outcome(channel, path, metadata=(), request=b""):
    """Return OK, or the status and reason of a refusal."""
    said = await refused_or_none(channel, path, metadata, request)
    return (said.code, said.reason) if said else StatusCode.OK


async def outcomes_around_expiry(settings, file, seconds):
    """Call repeatedly with a token that expires; return the outcomes before and after."""
    token, soon = CallerToken.issue(), datetime.now(UTC) + timedelta(seconds=seconds)
    file.write_text("\n".join(caller("brief", "admin", {token: soon})))
    path = "/tamatar.auth.v1.DiagnosticsService/GetDatabaseInfo"
    before, after = [], []
    async with (
        run_service(changed(settings, callers_file=file)) as service,
        grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
    ):
        while len(after) < 10:
            asked = datetime.now(UTC)
            answer = await outcome(channel, path, bearer(token))
            if asked >= soon:
                after.append(answer)
            elif datetime.now(UTC) < soon:
                before.append(answer)
    return before, after


class TestAccessRules:
    """Rules for every method."""

    def test_access_rules_cover_every_method(self):
        ruled = {f"/{service}/{name}" for service, names in ACCESS_RULES.items() for name in names}

        assert ruled == set(METHODS)

    @pytest.mark.parametrize("role", Role)
    @pytest.mark.parametrize("path", GUARDED)
    async def test_role_allows_its_methods_only(self, channel, path, role):
        service, _, name = path.rpartition("/")
        allowed = EXPECTED[service.rpartition(".")[2]][name] | {"admin"}

        said = await outcome(channel, path, bearer(TOKENS[role]))

        if role in allowed:
            assert said not in (UNKNOWN, NOT_ALLOWED)
        else:
            assert said == NOT_ALLOWED

    @pytest.mark.parametrize("role", Role)
    async def test_get_caller_returns_name_and_roles(self, channel, role):
        stub = DiagnosticsServiceStub(channel)

        answer = await stub.GetCaller(GetCallerRequest(), metadata=bearer(TOKENS[role]))

        assert (answer.name, answer.roles) == (f"the-{role}", [role])

    async def test_email_verified_at_creation_needs_admin(self, channel):
        path = "/tamatar.auth.v1.UserService/CreateUser"
        request = CreateUserRequest(
            email="new@example.com", email_verified=True
        ).SerializeToString()

        assert await outcome(channel, path, bearer(TOKENS["accounts"]), request) == NOT_ALLOWED
        assert await outcome(channel, path, bearer(TOKENS["admin"]), request) == StatusCode.OK

    async def test_method_without_access_rule_fails_start(self, settings, monkeypatch):
        monkeypatch.delitem(ACCESS_RULES["tamatar.auth.v1.UserService"], "PurgeUser")

        with pytest.raises(
            StartError, match=r"tamatar\.auth\.v1\.UserService/PurgeUser"
        ) as refused:
            async with run_service(settings):
                pass
        assert len(str(refused.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("answered", "rules", "named"),
        [
            ({"t.S": ["A", "B"]}, {"t.S": {"A": authorization.ADMIN}}, "t.S/B"),
            ({"t.S": ["A"], "t.New": ["C"]}, {"t.S": {"A": authorization.ADMIN}}, "t.New/C"),
            (
                {"t.S": ["A"]},
                {"t.S": {"A": authorization.ADMIN, "Gone": authorization.ADMIN}},
                "t.S/Gone",
            ),
            ({"t.S": ["*"]}, {"t.S": {"A": authorization.ADMIN}}, "t.S/*"),
        ],
    )
    def test_rule_mismatch_names_the_method(self, answered, rules, named):
        assert named in authorization.find_rule_mismatch(answered, rules)
        assert (
            authorization.find_rule_mismatch({"t.S": ["A"]}, {"t.S": {"A": authorization.ADMIN}})
            is None
        )

    async def test_method_without_access_rule_is_refused(self):
        async def hello(_request, _context):
            return b"hello"

        methods = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
        server = grpc.aio.server()
        answered = HandlerRegistry(server, [ErrorInterceptor(), AuthenticationInterceptor(None)])
        answered.add_registered_method_handlers("t.S", methods)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await refusal(channel.unary_unary("/t.S/Hello")(b"")) == NOT_ALLOWED
        await server.stop(None)


@pytest.fixture(scope="module")
def own_address():
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return probe.getsockname()[0]


class TestCallers:
    """Callers that are refused, or known."""

    @pytest.mark.parametrize("path", GUARDED)
    async def test_unproven_callers_are_refused_alike(self, channel, path):
        attempts = (
            (),
            bearer(CallerToken.issue()),
            bearer(EXPIRED),
            (("authorization", "Bearer "),),
            (("authorization", TOKENS[Role.ADMIN].text),),
            (("authorization", f"Basic {TOKENS[Role.ADMIN].text}"),),
            (("authorization", f"Bearer {TOKENS[Role.ADMIN].text} "),),
            (("authorization", f"Bearer {TOKENS[Role.ADMIN].text[:-1]}"),),
            (("authorization", "Bearer tmc_" + "x" * 4000),),
            bearer(TOKENS[Role.ADMIN]) * 2,
            (("authorization-bin", bearer(TOKENS[Role.ADMIN])[0][1].encode()),),
            (("x-authorization", bearer(TOKENS[Role.ADMIN])[0][1]),),
            (("x-user-id", "admin"), ("x-forwarded-for", "127.0.0.1"), ("caller", "the-admin")),
        )
        said = [await refused_or_none(channel, path, metadata) for metadata in attempts]

        assert all(one == said[0] for one in said)
        assert (said[0].code, said[0].reason) == UNKNOWN
        assert said[0].metadata == {}

    @pytest.mark.parametrize("path", OPEN)
    async def test_health_is_open_to_all(self, channel, path):
        for metadata in (
            (),
            bearer(EXPIRED),
            bearer(CallerToken.issue()),
            bearer(TOKENS["accounts"]),
        ):
            assert await outcome(channel, path, metadata) == StatusCode.OK

    async def test_refusal_without_role_names_sufficient_roles(self, channel):
        purge, check = "UserService/PurgeUser", "SessionService/ValidateSession"
        for path, roles in ((purge, "admin"), (check, "admin,validator")):
            said = await refused_or_none(
                channel, f"/tamatar.auth.v1.{path}", bearer(TOKENS["accounts"])
            )
            assert said.metadata == {"roles": roles}

    @pytest.mark.parametrize("path", GUARDED)
    async def test_refused_caller_learns_nothing_of_its_request(self, channel, path):
        for request in (b"", b"\xff\xff\xff", b"\x0a\x03\xff\xfe\xfd"):
            assert await outcome(channel, path, (), request) == UNKNOWN
            allowed = EXPECTED[path.split("/")[1].rpartition(".")[2]][path.rpartition("/")[2]]
            for role in {"validator", "accounts"} - allowed:
                assert await outcome(channel, path, bearer(TOKENS[role]), request) == NOT_ALLOWED

    @pytest.mark.parametrize("path", GUARDED)
    async def test_malformed_message_of_allowed_caller_is_refused(self, channel, path):
        said = await outcome(channel, path, bearer(TOKENS["admin"]), b"\xff\xff\xff")

        assert said == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")

    async def test_authorization_scheme_is_case_insensitive(self, channel):
        path = "/tamatar.auth.v1.DiagnosticsService/GetDatabaseInfo"
        said = (("authorization", f"bEARER {TOKENS[Role.ADMIN].text}"),)

        assert await outcome(channel, path, said) == StatusCode.OK

    async def test_caller_token_expires_without_reload(self, settings, database, tmp_path):
        for seconds in (2, 8, 32):
            before, after = await outcomes_around_expiry(
                settings, tmp_path / "callers.toml", seconds
            )
            if before:  # otherwise the start alone took longer
                break

        assert set(before) == {StatusCode.OK}
        assert set(after) == {UNKNOWN}

    @pytest.mark.parametrize("with_file", [True, False])
    async def test_plaintext_from_other_address_is_refused(
        self, with_file, callers_file, own_address
    ):
        async def hello(_request, _context):
            return b"hello"

        callers = WatchedFiles("callers", [callers_file], lambda: read_callers(callers_file))
        interceptors = [
            ErrorInterceptor(),
            AuthenticationInterceptor(
                callers if with_file else None, {"t.S": {"Hello": authorization.ADMIN}}
            ),
        ]
        methods = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
        server = grpc.aio.server()
        answered = HandlerRegistry(server, interceptors)
        answered.add_registered_method_handlers("t.S", methods)
        port = server.add_insecure_port("0.0.0.0:0")
        await server.start()
        answers = []
        for host in (own_address, "127.0.0.1"):
            async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
                call = channel.unary_unary("/t.S/Hello")(b"", metadata=bearer(TOKENS["admin"]))
                try:
                    answers.append(await call)
                except grpc.aio.AioRpcError as error:
                    answers.append((error.code(), read_refusal(error).reason))
        await server.stop(None)

        assert answers == [UNKNOWN, b"hello"]

    @pytest.mark.parametrize("with_file", [True, False])
    async def test_current_caller_is_set_during_call(self, with_file, callers_file):
        known = []

        async def who(_request, _context):
            known.append(current_caller.get())
            return b""

        callers = (
            WatchedFiles("callers", [callers_file], lambda: read_callers(callers_file))
            if with_file
            else None
        )
        rules = {"t.S": {"Who": authorization.READER}}
        methods = {"Who": grpc.unary_unary_rpc_method_handler(who)}
        server = grpc.aio.server()
        answered = HandlerRegistry(
            server, [ErrorInterceptor(), AuthenticationInterceptor(callers, rules)]
        )
        answered.add_registered_method_handlers("t.S", methods)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary("/t.S/Who")(b"", metadata=bearer(TOKENS["validator"]))
        await server.stop(None)

        (caller,) = known
        expected = ("the-validator", {"validator"}) if with_file else ("local", {"admin"})
        assert (caller.name, caller.roles) == expected
        assert current_caller.get() is None

    async def test_refusal_is_logged_with_true_cause_and_no_token(self, channel):
        path = "/tamatar.auth.v1.UserService/PurgeUser"
        stranger = CallerToken.issue()
        with structlog.testing.capture_logs() as logs:
            for metadata in ((), bearer(stranger), bearer(EXPIRED), bearer(TOKENS["validator"])):
                await outcome(channel, path, metadata)

        refusals = [entry for entry in logs if entry["event"] == "caller.refused"]
        assert [(entry["why"], entry.get("refused")) for entry in refusals] == [
            ("no credentials", None),
            ("token unknown or expired", None),
            ("token unknown or expired", "late"),
            ("no role for this method", "the-validator"),
        ]
        assert all(entry["method"] == path[1:] for entry in refusals)
        assert not any(token.text in str(logs) for token in (stranger, EXPIRED, *TOKENS.values()))


class TestEndedCalls:
    """Calls that end before their caller is authenticated: gRPC has forgotten their peer."""

    @pytest.mark.parametrize("name", ["ValidateSession", "WatchSessions"])
    @pytest.mark.parametrize("with_file", [True, False])
    async def test_expired_call_is_no_refusal(
        self, with_file, name, settings, database, callers_file
    ):
        secret = bearer(TOKENS["admin"])[0][1] if with_file else ""
        mine = changed(settings, callers_file=callers_file) if with_file else settings
        path, numbers = f"/tamatar.auth.v1.SessionService/{name}", range(1, 200, 2)
        more = {"authorization": secret, "grpc_timeout": "1m"}
        calls = [headers(number, path, **more) + message(number, b"") for number in numbers]
        with structlog.testing.capture_logs() as logs:
            async with run_service(mine) as service:
                for _ in range(30):
                    async with Connection.to(str(service.addresses[0])) as connection:
                        await connection.greet()
                        await connection.send(*calls)
                        await asyncio.sleep(0.02)
                await is_answered(service, secret)

        assert [entry for entry in logs if entry["event"] == "caller.refused"] == []

    async def test_stream_that_expires_is_no_refusal(
        self, settings, database, callers_file, monkeypatch
    ):
        monkeypatch.setattr(authentication, "RECHECK_INTERVAL", 0)
        mine, caller = changed(settings, callers_file=callers_file), bearer(TOKENS["admin"])
        with structlog.testing.capture_logs() as logs:
            async with (
                run_service(mine) as service,
                grpc.aio.insecure_channel(str(service.addresses[0])) as channel,
            ):
                watch = channel.unary_stream("/tamatar.auth.v1.SessionService/WatchSessions")
                for _ in range(5):
                    streams = [watch(b"", metadata=caller, timeout=0.3) for _ in range(20)]
                    await asyncio.gather(*(stream.code() for stream in streams))
                await is_answered(service, caller[0][1])

        assert [entry for entry in logs if entry["event"] == "caller.refused"] == []


async def is_answered(service, authorization):
    """Call once more, after all calls that arrived before."""
    async with grpc.aio.insecure_channel(str(service.addresses[0])) as channel:
        call = channel.unary_unary("/tamatar.auth.v1.DiagnosticsService/GetDatabaseInfo")
        await call(b"", metadata=(("authorization", authorization),), timeout=60)
