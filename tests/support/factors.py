"""Second factors of tests: authenticator apps, recovery codes, and answers to challenges."""

import time
from dataclasses import dataclass, field
from typing import Any

import pyotp
from grpc import StatusCode
from sqlalchemy import update

from tamatar.auth.v1 import factor_service_pb2, session_service_pb2
from tamatar.auth.v1.factor_pb2 import Factor
from tamatar.auth.v1.user_pb2 import User
from tamatar_auth.storage.database import Database
from tamatar_auth.storage.factor_tables import factors as factors_table
from tests.support.calls import sign_in
from tests.support.rows import run

INVALID_PROOF = (StatusCode.UNAUTHENTICATED, "INVALID_PROOF")


@dataclass(frozen=True)
class App:
    """An authenticator app with the secret of one factor."""

    factor: Factor
    secret: str = field(repr=False)

    def code(self, steps: int = 0) -> str:
        """Return the code of now, or of some steps later."""
        return pyotp.TOTP(self.secret).at(int(time.time()) + 30 * steps)

    @property
    def wrong_code(self) -> str:
        """A code that is wrong, now and for minutes."""
        near = {self.code(steps) for steps in range(-10, 20)}
        return next(code for code in map("{:06}".format, range(100)) if code not in near)


async def create_app(factors: Any, user: User, **given: Any) -> App:
    """Create a factor of an app, which is not confirmed."""
    request = factor_service_pb2.CreateTotpFactorRequest(user_id=user.user_id, **given)
    created = await factors.CreateTotpFactor(request)
    return App(created.factor, created.secret)


def confirm(factors: Any, app: App, code: str | None = None) -> Any:
    """Confirm a factor, by default with the code of now."""
    request = factor_service_pb2.ConfirmTotpFactorRequest(
        factor_id=app.factor.factor_id, code=code or app.code()
    )
    return factors.ConfirmTotpFactor(request)


async def enrol(factors: Any, user: User, database: Database) -> App:
    """Add an app to a user. The code of now works for a sign-in."""
    app = await create_app(factors, user)
    await confirm(factors, app)
    await forget_steps(database)
    return app


async def forget_steps(database: Database) -> None:
    """Let the codes of now work again."""
    await run(database, update(factors_table).values(last_step=0))


def create_codes(factors: Any, user: User) -> Any:
    """Create recovery codes of a user."""
    request = factor_service_pb2.CreateRecoveryCodesRequest(user_id=user.user_id)
    return factors.CreateRecoveryCodes(request)


async def recovery_codes(factors: Any, user: User) -> list[str]:
    """Return new recovery codes of a user."""
    return [*(await create_codes(factors, user)).codes]


def rename(factors: Any, factor: Factor, label: str) -> Any:
    """Change the label of a factor."""
    changed = Factor(factor_id=factor.factor_id, label=label)
    return factors.UpdateFactor(factor_service_pb2.UpdateFactorRequest(factor=changed))


def delete(factors: Any, factor: Factor) -> Any:
    """Remove a factor."""
    request = factor_service_pb2.DeleteFactorRequest(factor_id=factor.factor_id)
    return factors.DeleteFactor(request)


async def listed(factors: Any, user: User) -> list[Factor]:
    """Return all factors of a user."""
    request = factor_service_pb2.ListFactorsRequest(user_id=user.user_id)
    return [*(await factors.ListFactors(request)).factors]


async def challenge(sessions: Any, **given: Any) -> str:
    """Sign in with the right password, and return the token of the challenge."""
    answer = await sessions.CreateSession(sign_in(**given))
    return str(answer.challenge.challenge_token)


def complete(sessions: Any, token: str, **proof: Any) -> Any:
    """Answer a challenge with `totp_code`, `recovery_code` or `passkey_credential_json`."""
    request = session_service_pb2.CompleteSignInRequest(challenge_token=token, **proof)
    return sessions.CompleteSignIn(request)
