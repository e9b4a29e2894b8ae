"""Scenarios that are played on the fake and on the real service, whose answers are compared."""

import itertools
import json
import re
import time

import pyotp
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from tamatar.auth.v1 import factor_service_pb2 as f
from tamatar.auth.v1 import session_service_pb2 as s
from tamatar.auth.v1 import user_service_pb2 as u
from tamatar.auth.v1.session_pb2 import Session
from tamatar_auth import client
from tamatar_auth.client import aio
from tamatar_auth.client.testing import FakePasskey
from tests.support.soft_authenticator import SoftPasskey

PASSWORD, OTHER_PASSWORD = "correct horse battery", "another horse battery"
UNKNOWN_ID = "0190d9a0-0000-7000-8000-000000000000"
REQUEST_ID = "0190d9a0-0000-7000-8000-000000000001"

SECRET = re.compile(
    r"tm[suh]_[\w-]{43,50}|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}"
    r"|[A-Z2-7]{32}|[\dA-Z]{4}(-[\dA-Z]{4}){2}"
)
"""A token, an id or a code: it differs between services, and has a name in the results."""

AGED_COLUMNS = {
    "sessions": (
        *("created_at", "expires_at", "last_activity_at", "rotated_at"),
        "authenticated_at",
    ),
    "user_tokens": ("created_at", "expires_at"),
    "challenges": ("created_at", "expires_at"),
}


class Story:
    """Makes calls, and records each with its answer or its refusal."""

    def __init__(self, auth, advance, now, passkey):
        self._auth, self.advance = auth, advance
        self._now, self.new_passkey = now, passkey
        self._names = {}
        self.results = []

    async def call(self, method, **fields):
        stubs = {u: self._auth.users, s: self._auth.sessions, f: self._auth.factors}
        ((module, stub),) = (each for each in stubs.items() if hasattr(each[1], method))
        try:
            answer = await getattr(stub, method)(getattr(module, f"{method}Request")(**fields))
        except client.AuthError as error:
            fields = {path: sorted(rules) for path, rules in error.fields.items()}
            waits = error.retry_after is not None
            refusal = (type(error).__name__, error.status, error.reason_name, fields, waits)
            self.results.append((method, refusal, dict(error.metadata)))
            return None
        self.results.append((method, self._plain(answer)))
        return answer

    async def user(self, name="ada", **fields):
        given = {"email": f"{name}@example.com", "password": PASSWORD, "email_verified": True}
        return (await self.call("CreateUser", **(given | fields))).user

    async def sign_in(self, name="ada", password=PASSWORD, **fields):
        return await self.call(
            "CreateSession", email=f"{name}@example.com", password=password, **fields
        )

    def code(self, secret, steps=0):
        """Return the code that an app shows now, or some steps later."""
        return pyotp.TOTP(secret).at(int(self._now()) + 30 * steps)

    def _plain(self, value):
        """Return a value without what differs between two services: ids, tokens and times."""
        if isinstance(value, Timestamp):
            return "<a moment>"
        if isinstance(value, Message):
            found = {field.name: self._plain(each) for field, each in value.ListFields()}
            if isinstance(value, Session):
                life = value.expire_time.ToNanoseconds() - value.create_time.ToNanoseconds()
                found["life"] = life
            if found.get("next_page_token"):
                found["next_page_token"] = "<a page token>"
            for name in found.keys() & {"passkey_options_json", "creation_options_json"}:
                found[name] = json.loads(found[name], object_hook=_plain_options)
            return found
        if isinstance(value, str) and value.startswith("otpauth://"):
            return re.sub("secret=[A-Z2-7]{32}", "secret=<secret>", value)
        if isinstance(value, str) and SECRET.fullmatch(value):
            return self._names.setdefault(value, f"<secret {len(self._names)}>")
        if hasattr(value, "append"):
            return [self._plain(each) for each in value]
        return value


def _plain_options(options):
    """Return options of a browser without what differs between two services."""
    return {
        name: "<random>" if name in {"challenge", "id"} and len(value) >= 22 else value
        for name, value in options.items()
    }


class _RealPasskey:
    """A passkey whose signatures the real service accepts."""

    def __init__(self, **facts):
        self._facts = facts
        self._passkey = None

    def register(self, options):
        facts = {"aaguid": bytes(16), **self._facts}
        self._passkey = self._passkey or SoftPasskey.for_options(options, **facts)
        return self._passkey.register(options, transports=["internal"])

    def sign(self, options):
        return self._passkey.sign(options)


async def tell_twice(scenario, auth, database, fake, monkeypatch):
    """Play a scenario on both services; return each result of the real one and of the fake."""
    # Sessions whose past is moved expire on other days than their tokens name.
    monkeypatch.setattr("tamatar_auth.servicers.session_requirement.session_day", lambda _: None)

    async def age_rows(length):
        """Move the past of the real service away, in place of its clock."""
        async with database.transaction() as tx:
            for table, names in AGED_COLUMNS.items():
                changes = ", ".join(f"{name} = {name} - :time" for name in names)
                await tx.connection.execute(
                    text(f"UPDATE {table} SET {changes}"),  # noqa: S608 - names of this module
                    {"time": length},
                )
            steps = {"steps": int(length.total_seconds() // 30)}
            statement = "UPDATE factors SET last_step = greatest(last_step - :steps, 0)"
            await tx.connection.execute(text(statement), steps)

    async def advance_clock(length):
        fake.advance(length)

    def fake_now():
        return fake._store.clock.now().timestamp()

    real = Story(auth, age_rows, time.time, _RealPasskey)
    await scenario(real)
    async with aio.connect(fake.address) as there:
        imitated = Story(there, advance_clock, fake_now, FakePasskey)
        await scenario(imitated)
    return itertools.zip_longest(real.results, imitated.results)
