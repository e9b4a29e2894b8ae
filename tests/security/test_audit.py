"""The audit trail: every event is documented, and recorded by the call it belongs to."""

import asyncio
import json
import logging
import re
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import func, update

from tamatar.auth.v1 import session_service_pb2 as session_pb
from tamatar.auth.v1 import user_service_pb2 as pb
from tamatar.auth.v1.portable_user_pb2 import PortableUser
from tamatar.auth.v1.session_service_pb2_grpc import SessionServiceStub
from tamatar_auth.errors.factors import ProofCause
from tamatar_auth.errors.users import Cause
from tamatar_auth.observability.logs import AUDIT_LOGGER
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.server.app import run_service
from tamatar_auth.storage.repositories.login_attempts import FREE_ATTEMPTS, MAX_FAILURES
from tamatar_auth.storage.tables import password_attempts
from tamatar_auth.storage.tables import sessions as sessions_table
from tamatar_auth.storage.tables import users as users_table
from tests.server.test_app import channel_to
from tests.support.calls import (
    PASSWORD,
    ada,
    confirm_change,
    email_change,
    refused,
    sign_in,
    verify,
)
from tests.support.commands import ROOT
from tests.support.factors import (
    challenge,
    complete,
    confirm,
    create_app,
    create_codes,
    delete,
    enrol,
    rename,
)
from tests.support.passkey_calls import begin_registration, finish_registration
from tests.support.rows import wait_longer
from tests.support.settings import changed
from tests.support.soft_authenticator import SoftPasskey, base64url
from tests.support.telemetry_capture import logged
from tests.support.waiting import eventually, lock_is_waited_for

DOCUMENT = (ROOT / "docs/operate/audit.md").read_text()
NEW_PASSWORD = "another horse battery"
WRONG_PASSWORD = "wrong horse battery"

COMMON = {"timestamp", "level", "logger", "event", "audit", "caller"}


class Fields(NamedTuple):
    """The fields that an event always has, and those that it has if they are known."""

    always: set[str]
    where_known: set[str]


def documented():
    """Return the documented events with their fields."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| .+ \|(.*)\|$", DOCUMENT, re.MULTILINE)
    return {
        event: Fields(
            set(re.findall(r"`(\w+)`(?!\?)", fields)), set(re.findall(r"`(\w+)`\?", fields))
        )
        for event, fields in rows
    }


EVENTS = documented()


def examples():
    return [json.loads(line) for line in re.findall(r"^\{.*\}$", DOCUMENT, re.MULTILINE)]


class TestDocumentation:
    """Events, fields and causes on the page."""

    def test_audit_events_match_documented_ones(self):
        assert set(EVENTS) == {event.value for event in Event}

    def test_audit_fields_and_causes_are_explained(self):
        explained = set(re.findall(r"`(\w+)`", DOCUMENT.partition("## The events")[0]))

        assert {field for fields in EVENTS.values() for field in set().union(*fields)} <= explained
        assert {cause.value for cause in (*Cause, *ProofCause)} <= explained

    def test_audit_examples_have_documented_fields(self):
        whole, *own = examples()

        assert set(whole) > COMMON
        assert [example.pop("event") for example in own] == list(EVENTS)
        for example, fields in zip(own, EVENTS.values(), strict=True):
            assert fields.always <= set(example) <= fields.always | fields.where_known
        assert {key: value for key, value in whole.items() if key not in COMMON} == own[0]


class Scene:
    """Ada, the calls made for her, and the secrets that no line may repeat."""

    def __init__(self, users, sessions, factors, database):
        self.users, self.sessions, self.factors, self.database = users, sessions, factors, database
        self.user = None
        self.session_id = None
        self.secrets = {"ada@example.com", "ada.l", "Lovelace", PASSWORD, NEW_PASSWORD}
        self.secrets |= {WRONG_PASSWORD, "new@example.com", "unknown@example.com"}

    async def create(self, **given):
        self.user = (await self.users.CreateUser(self._whole(**given))).user
        return self.user

    async def repeat(self, request_id):
        await self.users.CreateUser(self._whole(request_id=request_id))

    async def sign_in(self, **given):
        started = await self.sessions.CreateSession(sign_in(**given))
        self.secrets.add(started.session_token)
        self.session_id = started.session.session_id
        return started.session_token

    async def refresh(self, token):
        request = session_pb.RefreshSessionRequest(session_token=token)
        answer = await self.sessions.RefreshSession(request)
        self.secrets.add(answer.session_token)

    async def step_up(self, password=PASSWORD):
        """Begin a step-up, and return the call that completes it."""
        token = await self.sign_in()
        begun = await self.sessions.BeginStepUp(session_pb.BeginStepUpRequest(session_token=token))
        challenge = begun.challenge.challenge_token
        self.secrets.add(challenge)
        proof = {"challenge_token": challenge, "password": password}
        request = session_pb.CompleteStepUpRequest(session_token=token, **proof)
        return lambda: self.sessions.CompleteStepUp(request)

    async def change(self, current=PASSWORD, **given):
        values = {"user_id": self.user.user_id, "new_password": NEW_PASSWORD} | given
        request = pb.ChangePasswordRequest(current_password=current, **values)
        return await self.users.ChangePassword(request)

    async def ask_reset(self, email="ada@example.com"):
        request = pb.CreatePasswordResetRequest(email=email)
        token = (await self.users.CreatePasswordReset(request)).token
        self.secrets |= {token} - {""}
        return token

    async def reset(self, token):
        request = pb.ResetPasswordRequest(token=token, new_password=NEW_PASSWORD)
        return await self.users.ResetPassword(request)

    async def create_app(self):
        app = await create_app(self.factors, self.user)
        self.secrets |= {app.secret, app.code()}
        return app

    async def enrol(self):
        app = await enrol(self.factors, self.user, self.database)
        self.secrets |= {app.secret, app.code()}
        return app

    async def begin_passkey(self):
        begun = await begin_registration(self.factors, self.user)
        self.secrets |= {begun.registration_token, begun.creation_options_json}
        return begun

    async def ask_verification(self):
        request = pb.CreateEmailVerificationRequest(user_id=self.user.user_id)
        token = (await self.users.CreateEmailVerification(request)).token
        self.secrets.add(token)
        return token

    async def verify(self, token):
        return await self.users.VerifyEmail(pb.VerifyEmailRequest(token=token))

    async def ask_email_change(self, email="new@example.com"):
        token = (await email_change(self.users, self.user, email)).token
        self.secrets.add(token)
        return token

    async def update(self, **changes):
        mask = FieldMask(paths=list(changes))
        request = pb.UpdateUserRequest(user_id=self.user.user_id, update_mask=mask, **changes)
        return await self.users.UpdateUser(request)

    async def of_user(self, method, **given):
        request = getattr(pb, f"{method}Request")(user_id=self.user.user_id, **given)
        return await getattr(self.users, method)(request)

    async def revoke(self):
        request = session_pb.RevokeSessionRequest(session_id=self.session_id)
        return await self.sessions.RevokeSession(request)

    async def revoke_all(self):
        request = session_pb.RevokeUserSessionsRequest(user_id=self.user.user_id)
        return await self.sessions.RevokeUserSessions(request)

    async def store(self, table, **columns):
        async with self.database.transaction() as tx:
            await tx.connection.execute(update(table).values(columns))

    @staticmethod
    def _whole(**given):
        return ada(username="ada.l", last_name="Lovelace", **given)


@pytest.fixture
async def scene(users, sessions, factors, database):
    """Ada, who can sign in."""
    scene = Scene(users, sessions, factors, database)
    await verify(database, await scene.create())
    return scene


async def created(scene):
    await scene.of_user("PurgeUser")
    yield
    await scene.create()


async def signed_in(scene):
    yield {"revoked_sessions": 0}
    await scene.sign_in()


async def refused_sign_in(scene):
    yield {"cause": Cause.WRONG_PASSWORD}
    await refused(scene.sign_in(password=WRONG_PASSWORD))


async def changed_password(scene):
    await scene.sign_in()
    yield {"revoked_sessions": 1}
    await scene.change()


async def refused_change(scene):
    yield {"cause": Cause.WRONG_PASSWORD}
    await refused(scene.change(WRONG_PASSWORD))


async def asked_for_reset(scene):
    yield
    await scene.ask_reset()


async def reset_password(scene):
    await scene.sign_in()
    token = await scene.ask_reset()
    yield {"revoked_sessions": 1}
    await scene.reset(token)


async def refused_reset(scene):
    scene.secrets.add("tmu_unknown")
    yield
    await refused(scene.reset("tmu_unknown"))


async def asked_for_verification(scene):
    yield
    await scene.ask_verification()


async def verified_email(scene):
    token = await scene.ask_verification()
    yield
    await scene.verify(token)


async def refused_verification(scene):
    scene.secrets.add("tmu_unknown")
    yield
    await refused(scene.verify("tmu_unknown"))


async def changed_email(scene):
    yield
    await scene.update(email="new@example.com")


async def asked_for_email_change(scene):
    yield
    await scene.ask_email_change()


async def refused_email_change(scene):
    scene.secrets.add("tmu_unknown")
    yield
    await refused(confirm_change(scene.users, "tmu_unknown"))


async def refreshed(scene):
    token = await scene.sign_in()
    yield
    await scene.refresh(token)


async def revoked(scene):
    await scene.sign_in()
    yield
    await scene.revoke()


async def stepped_up(scene):
    complete = await scene.step_up()
    yield {"authentication_methods": "pwd"}
    scene.secrets.add((await complete()).session_token)


async def refused_step_up(scene):
    complete = await scene.step_up(WRONG_PASSWORD)
    yield {"cause": Cause.WRONG_PASSWORD}
    await refused(complete())


async def reused(scene):
    token = await scene.sign_in()
    await scene.refresh(token)
    await scene.store(sessions_table, rotated_at=func.now() - timedelta(seconds=11))
    yield
    await refused(scene.refresh(token))


async def revoked_all(scene):
    for _ in range(2):
        await scene.sign_in()
    yield {"revoked_sessions": 2}
    await scene.revoke_all()


async def deactivated(scene):
    await scene.sign_in()
    yield {"revoked_sessions": 1}
    await scene.of_user("DeactivateUser")


async def activated(scene):
    await scene.of_user("DeactivateUser")
    yield
    await scene.of_user("ActivateUser")


async def deleted(scene):
    await scene.sign_in()
    yield {"revoked_sessions": 1}
    await scene.of_user("DeleteUser", deleted_by="ada.l")


async def restored(scene):
    await scene.of_user("DeleteUser")
    yield
    await scene.of_user("RestoreUser")


async def purged(scene):
    yield
    await scene.of_user("PurgeUser")


async def imported(scene):
    user_id = str(uuid4())
    user = PortableUser(user_id=user_id, email="new@example.com")
    bad = PortableUser(email="unknown")
    request = pb.ImportUsersRequest(users=[user, bad, user])
    yield {"user_ids": [user_id]}
    async for _ in scene.users.ImportUsers(iter([request])):
        pass


async def exported(scene):
    yield {"users": 1, "password_hashes": 0}
    async for _ in scene.users.ExportUsers(pb.ExportUsersRequest(include_password_hashes=True)):
        pass


async def challenged(scene):
    await scene.enrol()
    yield
    scene.secrets.add(await challenge(scene.sessions))


async def created_app(scene):
    facts = {"kind": "totp"}
    yield facts
    facts["factor_id"] = (await scene.create_app()).factor.factor_id


async def confirmed_app(scene):
    app = await scene.create_app()
    yield {"factor_id": app.factor.factor_id, "kind": "totp"}
    await confirm(scene.factors, app)


async def refused_confirmation(scene):
    app = await scene.create_app()
    yield {"factor_id": app.factor.factor_id, "cause": ProofCause.WRONG_CODE}
    await refused(confirm(scene.factors, app, app.wrong_code))


async def renamed_factor(scene):
    app = await scene.create_app()
    scene.secrets.add("Adas phone")
    yield {"factor_id": app.factor.factor_id, "kind": "totp"}
    await rename(scene.factors, app.factor, "Adas phone")


async def deleted_factor(scene):
    app = await scene.enrol()
    yield {"factor_id": app.factor.factor_id, "kind": "totp"}
    await delete(scene.factors, app.factor)


async def created_codes(scene):
    facts = {"kind": "recovery_codes"}
    yield facts
    created = await create_codes(scene.factors, scene.user)
    facts["factor_id"] = created.factor.factor_id
    scene.secrets |= {*created.codes}


async def used_recovery_code(scene):
    await scene.enrol()
    created = await create_codes(scene.factors, scene.user)
    token, code = await challenge(scene.sessions), created.codes[0]
    scene.secrets |= {token, code}
    yield {"factor_id": created.factor.factor_id}
    await complete(scene.sessions, token, recovery_code=code)


async def registered_passkey(scene):
    begun = await scene.begin_passkey()
    passkey = SoftPasskey.for_options(begun.creation_options_json)
    answer = passkey.register(begun.creation_options_json)
    scene.secrets |= {answer, base64url(passkey.credential_id)}
    facts = {}
    yield facts
    done = await finish_registration(scene.factors, begun.registration_token, answer)
    facts["factor_id"] = done.factor.factor_id


async def refused_passkey(scene):
    begun = await scene.begin_passkey()
    yield {"cause": ProofCause.WRONG_CREDENTIAL}
    await refused(finish_registration(scene.factors, begun.registration_token, "{}"))


SCENES = {
    Event.SIGN_IN_SUCCEEDED: signed_in,
    Event.SIGN_IN_CHALLENGED: challenged,
    Event.SIGN_IN_FAILED: refused_sign_in,
    Event.PASSWORD_CHANGED: changed_password,
    Event.PASSWORD_CHANGE_FAILED: refused_change,
    Event.PASSWORD_RESET_CREATED: asked_for_reset,
    Event.PASSWORD_RESET: reset_password,
    Event.PASSWORD_RESET_FAILED: refused_reset,
    Event.EMAIL_VERIFICATION_CREATED: asked_for_verification,
    Event.EMAIL_VERIFIED: verified_email,
    Event.EMAIL_VERIFICATION_FAILED: refused_verification,
    Event.EMAIL_CHANGE_CREATED: asked_for_email_change,
    Event.EMAIL_CHANGED: changed_email,
    Event.EMAIL_CHANGE_FAILED: refused_email_change,
    Event.FACTOR_CREATED: created_app,
    Event.FACTOR_CONFIRMED: confirmed_app,
    Event.FACTOR_CONFIRM_FAILED: refused_confirmation,
    Event.FACTOR_UPDATED: renamed_factor,
    Event.FACTOR_DELETED: deleted_factor,
    Event.RECOVERY_CODES_CREATED: created_codes,
    Event.RECOVERY_CODE_USED: used_recovery_code,
    Event.PASSKEY_REGISTERED: registered_passkey,
    Event.PASSKEY_REGISTRATION_FAILED: refused_passkey,
    Event.SESSION_REFRESHED: refreshed,
    Event.SESSION_REVOKED: revoked,
    Event.SESSION_STEPPED_UP: stepped_up,
    Event.SESSION_STEP_UP_FAILED: refused_step_up,
    Event.SESSION_REUSED: reused,
    Event.SESSIONS_REVOKED: revoked_all,
    Event.USER_CREATED: created,
    Event.USER_DEACTIVATED: deactivated,
    Event.USER_ACTIVATED: activated,
    Event.USER_DELETED: deleted,
    Event.USER_RESTORED: restored,
    Event.USER_PURGED: purged,
    Event.USERS_IMPORTED: imported,
    Event.USERS_EXPORTED: exported,
}
"""The scene of each event: it prepares, yields the expected facts, and makes the call."""


async def recorded(work):
    """Await some work, and return the events that it recorded."""
    with structlog.testing.capture_logs() as logs:
        await work
    entries = [entry for entry in logs if entry.pop("audit", False)]
    assert {entry.pop("log_level") for entry in entries} <= {"info"}
    assert {entry.pop("caller") for entry in entries} <= {"local"}
    return entries


async def no_user(scene):
    return scene.sign_in(email="unknown@example.com"), None


async def deleted_user(scene):
    await scene.of_user("DeleteUser")
    return scene.sign_in(), None


async def inactive_user(scene):
    await scene.of_user("DeactivateUser")
    return scene.sign_in(), scene.user.user_id


async def no_password(scene):
    await scene.store(users_table, password_hash=None)
    return scene.sign_in(), scene.user.user_id


async def wrong_password(scene):
    return scene.sign_in(username="ada.l", password=WRONG_PASSWORD), scene.user.user_id


async def too_many_attempts(scene):
    for _ in range(FREE_ATTEMPTS + 1):
        await refused(scene.sign_in(password=WRONG_PASSWORD))
    await wait_longer(scene.database)
    return scene.sign_in(), scene.user.user_id


async def too_many_attempts_on_unknown(scene):
    for _ in range(FREE_ATTEMPTS + 1):
        await refused(scene.sign_in(email="unknown@example.com"))
    await wait_longer(scene.database)
    return scene.sign_in(email="unknown@example.com"), None


async def disabled_password(scene):
    await refused(scene.sign_in(password=WRONG_PASSWORD))
    await scene.store(password_attempts, failures=MAX_FAILURES)
    return scene.sign_in(), scene.user.user_id


async def email_not_verified(scene):
    await scene.store(users_table, email_verified=False)
    return scene.sign_in(), scene.user.user_id


CAUSES = {
    no_user: Cause.NO_USER,
    deleted_user: Cause.NO_USER,
    inactive_user: Cause.INACTIVE_USER,
    no_password: Cause.NO_PASSWORD,
    wrong_password: Cause.WRONG_PASSWORD,
    too_many_attempts: Cause.TOO_MANY_ATTEMPTS,
    too_many_attempts_on_unknown: Cause.TOO_MANY_ATTEMPTS,
    disabled_password: Cause.TOO_MANY_ATTEMPTS,
    email_not_verified: Cause.EMAIL_NOT_VERIFIED,
}


class TestCauses:
    """The causes of refused passwords."""

    @pytest.mark.parametrize("prepare", CAUSES, ids=lambda prepare: prepare.__name__)
    async def test_refused_sign_in_is_recorded_with_true_cause(self, scene, prepare):
        call, user_id = await prepare(scene)

        (entry,) = await recorded(refused(call))

        whose = {"user_id": user_id} if user_id else {}
        assert entry == {"event": "sign_in.failed", "cause": CAUSES[prepare], **whose}

    async def test_concurrent_password_change_is_recorded_as_cause(self, scene):
        async with scene.database.transaction() as tx:
            await tx.connection.execute(update(users_table).values(password_hash="another"))
            attempt = asyncio.create_task(recorded(refused(scene.change())))
            await eventually(lambda: lock_is_waited_for(scene.database))

        (entry,) = await attempt
        assert entry["cause"] == Cause.CHANGED_MEANWHILE
        assert entry["user_id"] == scene.user.user_id

    def test_every_cause_has_a_test(self):
        assert {*CAUSES.values(), Cause.CHANGED_MEANWHILE} == set(Cause)

    async def test_password_change_of_unknown_user_has_no_id(self, scene):
        (entry,) = await recorded(refused(scene.change(user_id=str(uuid4()))))

        assert entry == {"event": "password.change_failed", "cause": Cause.NO_USER}

    async def test_reset_of_unknown_email_is_recorded_without_id(self, scene):
        assert await recorded(scene.ask_reset("unknown@example.com")) == [
            {"event": "password.reset_created"}
        ]


class TestEmailChange:
    """A change of address by its two calls."""

    async def test_confirmed_email_change_is_recorded_without_emails(self, scene):
        token = await scene.ask_email_change()

        assert await recorded(confirm_change(scene.users, token)) == [
            {"event": "email.changed", "user_id": scene.user.user_id}
        ]


class TestSilence:
    """Calls that record no event."""

    async def test_repeated_request_records_no_second_event(self, scene):
        await scene.of_user("PurgeUser")
        request_id = str(uuid4())
        await scene.create(request_id=request_id)

        assert await recorded(scene.repeat(request_id)) == []

    async def test_update_of_names_records_no_event(self, scene):
        assert await recorded(scene.update(first_name="Augusta", username="augusta")) == []

    async def test_request_with_invalid_field_records_no_attempt(self, scene):
        token = await scene.ask_reset()
        weak = pb.ResetPasswordRequest(token=token, new_password="short")

        assert await recorded(refused(scene.users.ResetPassword(weak))) == []
        assert await recorded(refused(scene.sign_in(password="x" * 257))) == []
        assert await recorded(refused(scene.change(new_password="short"))) == []

    async def test_import_that_only_validates_records_no_event(self, scene):
        user = PortableUser(email="new@example.com")
        request = pb.ImportUsersRequest(users=[user], validate_only=True)

        async def validated():
            return [answer async for answer in scene.users.ImportUsers(iter([request]))]

        assert await recorded(validated()) == []

    async def test_rolled_back_call_records_no_event(self, scene):
        other = str(uuid4())

        refusals = (
            scene.of_user("RestoreUser"),
            scene.users.PurgeUser(pb.PurgeUserRequest(user_id=other)),
            scene.users.DeleteUser(pb.DeleteUserRequest(user_id=other)),
            scene.create(),
        )
        for call in refusals:
            assert await recorded(refused(call)) == []


class TestEvents:
    """Events that calls record."""

    def test_every_audit_event_has_a_scene(self):
        # CALLER_REFUSED is covered by the tests of authentication.
        assert set(SCENES) == set(Event) - {Event.CALLER_REFUSED}

    @pytest.mark.parametrize("event", SCENES, ids=lambda event: event.value)
    async def test_audit_event_is_recorded_once_with_ids_and_no_secret(self, scene, event):
        play = SCENES[event](scene)
        facts = await anext(play)

        entries = await recorded(anext(play, None))
        (entry,) = (entry for entry in entries if entry["event"] == event.value)

        expected = {"event": event.value, **(facts or {})}
        fields = EVENTS[event.value]
        ids = {"user_id": scene.user.user_id, "session_id": scene.session_id}
        known = fields.always | fields.where_known
        assert entry == expected | {name: value for name, value in ids.items() if name in known}
        assert set(entry) - {"event"} == known
        assert not [secret for secret in scene.secrets if secret in json.dumps(entry)]

    async def test_restore_with_new_email_records_both_events(self, scene):
        await scene.of_user("DeleteUser")

        entries = await recorded(scene.of_user("RestoreUser", email="new@example.com"))

        assert [entry["event"] for entry in entries] == ["user.restored", "email.changed"]

    async def test_sign_in_records_count_of_ended_sessions(self, settings, scene):
        few = changed(settings, sessions_per_user=1)
        async with run_service(few) as service, channel_to(service) as channel:
            stub = SessionServiceStub(channel)
            await stub.CreateSession(sign_in())
            (entry,) = await recorded(stub.CreateSession(sign_in()))

        assert entry["revoked_sessions"] == 1

    @pytest.mark.parametrize("level", ["info", "warning", "error"])
    def test_audit_event_is_logged_at_any_level(self, settings, level):
        with logged(changed(settings, log_level=level, log_format="json")) as stream:
            audit.record(Event.USER_PURGED, user_id=UUID(int=1), session_id=None)
            structlog.get_logger("tamatar_auth.elsewhere").debug("not heard")

        line = json.loads(stream.getvalue())
        assert set(line) == COMMON - {"caller"} | {"user_id"}
        assert line["logger"] == AUDIT_LOGGER
        assert line["audit"] is True
        assert line["timestamp"].endswith("Z")
        assert logging.getLogger(AUDIT_LOGGER).level == logging.NOTSET
