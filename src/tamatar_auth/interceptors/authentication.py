"""Authenticates the caller of each call, and checks that it may call the method.

A caller proves its identity with a bearer token (`authorization: Bearer tmc_…`) or with the
certificate of its connection. Nothing else in the metadata is believed. The rules for each
method are in `security/authorization.py`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn

from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.errors import CallerNotAllowed, CallerUnknown, Failure
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.interceptors.cancellation import CancellableCall
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.authorization import ACCESS_RULES, DENY_ALL, AccessRule, AccessRules
from tamatar_auth.security.callers import (
    LOCAL_CALLER,
    Caller,
    Callers,
    CallerToken,
    current_caller,
    dns_name,
)

RECHECK_INTERVAL = 5.0
"""Seconds between two checks that the caller of a stream may still call."""

_BEARER = re.compile(rf"(?i:bearer) ({CallerToken.PREFIX}[A-Za-z0-9_-]{{43}})")

# How the peer names of connections from this machine begin.
_LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D:")

_AuthContext = Mapping[str, Iterable[bytes]]


class AuthenticationInterceptor(Interceptor):
    """Refuses unknown callers, and callers without a role for the method.

    If no callers are configured, a caller on this machine is `LOCAL_CALLER`, an admin.
    """

    def __init__(
        self, callers: WatchedFiles[Callers] | None, rules: AccessRules = ACCESS_RULES
    ) -> None:
        self._callers = callers
        self._rules = rules

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Authenticate before the behaviour does anything; leave open methods alone."""
        rule = self._rules.get(method.service, {}).get(method.name, DENY_ALL)
        if rule.is_open:
            return behaviour

        if not method.is_unary:
            return self._wrap_stream(behaviour, method, rule)
        authenticate = Authenticator(self._callers, method, rule).authenticate

        def authenticated(request: Any, context: Context) -> Awaitable[Any]:
            # Never reset: gRPC runs each call in its own task, and the interceptors around this
            # one may still log the caller.
            current_caller.set(authenticate(context))
            return behaviour(request, context)

        return authenticated

    def _wrap_stream(self, behaviour: Behaviour, method: Method, rule: AccessRule) -> Behaviour:
        """Authenticate when a stream begins, and again every few seconds."""
        authenticate = Authenticator(self._callers, method, rule).authenticate

        async def authenticated(request: Any, context: Context) -> Any:
            current_caller.set(authenticate(context))
            answer = behaviour(request, context)
            return await _StreamRecheck(lambda: authenticate(context)).run(answer)

        return authenticated


class _StreamRecheck:
    """Ends a stream whose caller was removed, lost its role or let its token expire."""

    def __init__(self, authenticate: Callable[[], object]) -> None:
        self._authenticate = authenticate
        self._call = CancellableCall()
        self._schedule()

    async def run(self, answer: Awaitable[Any]) -> Any:
        """Return the answer, or raise the failure of the recheck that ended the stream."""
        try:
            return await self._call.run(answer)
        finally:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RECHECK_INTERVAL, self._recheck)

    def _recheck(self) -> None:
        try:
            self._authenticate()
        except Failure as failure:
            self._call.cancel_with(failure)
        else:
            self._schedule()


class Authenticator:
    """Authenticates the callers of one method."""

    def __init__(
        self, callers: WatchedFiles[Callers] | None, method: Method, rule: AccessRule
    ) -> None:
        self._callers = callers
        self._method = method
        self._roles = rule.roles

    def authenticate(self, context: Context) -> Caller:
        """Return the caller, or raise `CallerUnknown` or `CallerNotAllowed`."""
        caller = self._identify(context)
        if caller.roles.isdisjoint(self._roles):
            self._log("no role for this method", caller, context)
            raise CallerNotAllowed(self._roles)
        return caller

    def _identify(self, context: Context) -> Caller:
        is_local = str(context.peer()).startswith(_LOCAL_PEERS)
        if self._callers is None:
            return LOCAL_CALLER if is_local else self._refuse("not from this machine", context)
        auth_context: _AuthContext = context.auth_context()
        if not is_local and b"ssl" not in auth_context.get("transport_security_type", ()):
            self._refuse("not encrypted", context)
        callers, names = self._callers.value, _names(auth_context)
        found = {*self._find_by_token(callers, context), *callers.find_by_names(names)}
        if len(found) > 1:
            self._refuse("credentials of several callers", context)
        if not found:
            self._refuse("certificate of no caller" if names else "no credentials", context)
        return found.pop()

    def _find_by_token(self, callers: Callers, context: Context) -> Collection[Caller]:
        """Return the caller of the token that was sent, if one was sent."""
        metadata = context.invocation_metadata() or ()
        sent = [value for key, value in metadata if key == "authorization"]
        if not sent:
            return ()
        bearer = _BEARER.fullmatch(str(sent[0])) if len(sent) == 1 else None
        if bearer is None:
            self._refuse("no bearer token in the authorization", context)
        caller = callers.find_by_token(bearer[1])
        if caller is None:
            expired = callers.find_token_owner(bearer[1])
            self._refuse("token unknown or expired", context, expired)
        return (caller,)

    def _refuse(self, why: str, context: Context, caller: Caller | None = None) -> NoReturn:
        self._log(why, caller, context)
        raise CallerUnknown

    def _log(self, why: str, caller: Caller | None, context: Context) -> None:
        audit.record(
            Event.CALLER_REFUSED,
            method=f"{self._method.service}/{self._method.name}",
            why=why,
            refused=caller.name if caller else None,
            peer=str(context.peer()),
        )


def _names(auth_context: _AuthContext) -> Collection[str]:
    """Return the names in the certificate of the peer, which gRPC has verified."""
    ids = (name.decode(errors="replace") for name in auth_context.get("peer_spiffe_id", ()))
    hosts = (name.decode(errors="replace") for name in auth_context.get("peer_dns", ()))
    return [*ids, *(dns_name(host) for host in hosts)]
