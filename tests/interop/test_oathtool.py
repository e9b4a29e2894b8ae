"""Codes of oathtool, an authenticator app of the shell, sign users in."""

import asyncio
import shutil

import pytest

from tests.support.calls import ada, refusal
from tests.support.commands import ROOT, missing_tool, run
from tests.support.factors import INVALID_PROOF, challenge, complete, confirm, create_app


@pytest.fixture
def oathtool():
    """Return a code of a secret in base32, at a time such as `now + 30 seconds`."""
    if shutil.which("oathtool") is None:
        missing_tool("oathtool is missing: .ci/run installs it")

    async def code(secret, moment="now"):
        command = ("oathtool", "--totp", "--base32", "--now", moment, secret)
        return (await asyncio.to_thread(run, *command, cwd=ROOT)).stdout.strip()

    return code


async def test_codes_of_oathtool_confirm_and_sign_in(users, factors, sessions, oathtool):
    created = await users.CreateUser(ada(email_verified=True))
    app = await create_app(factors, created.user)

    await confirm(factors, app, await oathtool(app.secret))
    code = await oathtool(app.secret, "now + 30 seconds")

    assert (await complete(sessions, await challenge(sessions), totp_code=code)).session_token


async def test_late_code_of_oathtool_is_refused(users, factors, sessions, oathtool):
    created = await users.CreateUser(ada(email_verified=True))
    app = await create_app(factors, created.user)

    late = await oathtool(app.secret, "now - 5 minutes")

    assert await refusal(confirm(factors, app, late)) == INVALID_PROOF
