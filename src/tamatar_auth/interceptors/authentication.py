"""Lets a call pass whose caller is known and may call the method.

A caller proves who it is with a bearer token (`authorization: Bearer tmc_…`) or with the
certificate of its connection. Nothing else that it sends is believed. Who may call what is
told by `security/authorization.py`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

from grpc.aio import ServicerContext

from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.errors import CallerNotAllowed, CallerUnknown, Failure
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.authorization import ACCESS_RULES, DENY_ALL, AccessRule, AccessRules
from tamatar_auth.security.callers import (
    CALLER_TOKEN_PREFIX,
    LOCAL_CALLER,
    Caller,
    Callers,
    current_caller,
    dns_name,
)

RECHECK_INTERVAL = 5.0
"""Seconds after which it is looked whether the caller of a stream may still call."""

_BEARER = re.compile(rf"(?i:bearer) ({CALLER_TOKEN_PREFIX}[A-Za-z0-9_-]{{43}})")

# What gRPC calls the other end of a connection that was not made from another machine.
_LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D:")

_AuthContext = Mapping[str, Iterable[bytes]]

Context: TypeAlias = ServicerContext[Any, Any]


class AuthenticationInterceptor(Interceptor):
    """Refuses callers that are not known, and those without a role for the method.

    Without callers, whoever calls from this machine is `LOCAL`, an admin.
    """

    def __init__(
        self, callers: WatchedFiles[Callers] | None, rules: AccessRules = ACCESS_RULES
    ) -> None:
        self._callers = callers
        self._rules = rules

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Ask who calls before the behaviour does anything; leave open methods alone."""
        rule = self._rules.get(method.service, {}).get(method.name, DENY_ALL)
        if rule.is_open:
            return behaviour

        if not method.is_unary:
            return self._wrap_stream(behaviour, method, rule)
        authenticate = Authenticator(self._callers, method, rule).authenticate

        def authenticated(request: Any, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
            # gRPC runs each call in a task of its own, and the value ends with that: the
            # interceptors around this one may still log whose call it was.
            current_caller.set(authenticate(context))
            return behaviour(request, context)

        return authenticated

    def _wrap_stream(self, behaviour: Behaviour, method: Method, rule: AccessRule) -> Behaviour:
        """Let a stream go on for as long as its caller may call."""
        authenticate = Authenticator(self._callers, method, rule).authenticate

        async def authenticated(request: Any, context: ServicerContext[Any, Any]) -> Any:
            current_caller.set(authenticate(context))
            answer = behaviour(request, context)
            return await _StreamRecheck(lambda: authenticate(context)).run(answer)

        return authenticated


class _StreamRecheck:
    """Ends a stream whose caller was taken out, lost its role or let its token expire."""

    def __init__(self, authenticate: Callable[[], object]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        self._task = task
        self._authenticate = authenticate
        self._failure: Failure | None = None
        self._schedule_recheck()

    async def run(self, answer: Awaitable[Any]) -> Any:
        """Return the answer, or raise what the caller is told by now."""
        try:
            return await answer
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            self._task.uncancel()
            raise self._failure from None
        finally:
            self._timer.cancel()

    def _schedule_recheck(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RECHECK_INTERVAL, self._recheck)

    def _recheck(self) -> None:
        try:
            self._authenticate()
        except Failure as failure:
            self._failure = failure
            self._task.cancel()
        else:
            self._schedule_recheck()


class Authenticator:
    """Lets those call a method who may."""

    def __init__(
        self, callers: WatchedFiles[Callers] | None, method: Method, rule: AccessRule
    ) -> None:
        self._callers = callers
        self._method = method
        self._roles = rule.roles

    def authenticate(self, context: Context) -> Caller:
        """Return who makes a call if it may, or raise what it is told."""
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
            self._refuse("certificate of nobody" if names else "no credentials", context)
        return found.pop()

    def _find_by_token(self, callers: Callers, context: Context) -> Collection[Caller]:
        """Find whose token was sent: one caller, or none if nothing was sent."""
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
    """Return the names in the certificate that the other end has shown and gRPC has verified."""
    ids = (name.decode(errors="replace") for name in auth_context.get("peer_spiffe_id", ()))
    hosts = (name.decode(errors="replace") for name in auth_context.get("peer_dns", ()))
    return [*ids, *(dns_name(host) for host in hosts)]
