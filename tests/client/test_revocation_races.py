"""Checks that race with revocations on two servers: a refused session stays refused."""

import functools

from benchmarks.guards import race
from tamatar.auth.v1.session_service_pb2 import RevokeSessionRequest
from tamatar_auth.client import aio
from tamatar_auth.client.guard_rules import CallRejected
from tamatar_auth.server.app import run_service
from tests.support.calls import sign_in
from tests.support.waiting import eventually

SESSIONS = 40
CHECKS = 4000


async def is_rejected(guard, token):
    try:
        await guard.session(token)
    except CallRejected:
        return True
    return False


async def test_refused_session_is_never_accepted_again(service, settings, auth, signed_in):
    started = [await signed_in()]
    started += [await auth.sessions.CreateSession(sign_in()) for _ in range(SESSIONS - 1)]
    tokens = [each.session_token for each in started]

    async def revoke(token):
        await auth.sessions.RevokeSession(RevokeSessionRequest(session_token=token))

    async with run_service(settings) as second, aio.connect(str(second.addresses[0])) as other:
        guards = [aio.SessionGuard(each) for each in (auth, other)]
        outcome = await race(guards, revoke, tokens, CHECKS)
        while not outcome.refused and not outcome.revived:  # no end has been read yet
            outcome = await race(guards, revoke, tokens, CHECKS)
        for guard in guards:
            for token in tokens:
                await eventually(functools.partial(is_rejected, guard, token))
            await guard.close()

    assert (outcome.checks, outcome.revived) == (CHECKS, 0)
    assert outcome.refused
