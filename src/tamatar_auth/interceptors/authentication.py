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

from tamatar_auth.config.watched_files import Watched
from tamatar_auth.errors import CallerNotAllowed, CallerUnknown, Failure
from tamatar_auth.interceptors.base import Behaviour, Interceptor, Method
from tamatar_auth.security import audit
from tamatar_auth.security.audit import Event
from tamatar_auth.security.authorization import NOBODY, RULES, Rule, Rules
from tamatar_auth.security.callers import (
    LOCAL,
    PREFIX,
    Caller,
    Callers,
    current_caller,
    dns_name,
)

INTERVAL = 5.0
"""Seconds after which it is looked whether the caller of a stream may still call."""

_BEARER = re.compile(rf"(?i:bearer) ({PREFIX}[A-Za-z0-9_-]{{43}})")

# What gRPC calls the other end of a connection that was not made from another machine.
_HERE = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D:")

_Connection = Mapping[str, Iterable[bytes]]

Context: TypeAlias = ServicerContext[Any, Any]


class CallerInterceptor(Interceptor):
    """Refuses callers that are not known, and those without a role for the method.

    Without callers, whoever calls from this machine is `LOCAL`, an admin.
    """

    def __init__(self, callers: Watched[Callers] | None, rules: Rules = RULES) -> None:
        self._callers = callers
        self._rules = rules

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Ask who calls before the behaviour does anything; leave open methods alone."""
        rule = self._rules.get(method.service, {}).get(method.name, NOBODY)
        if rule.is_open:
            return behaviour

        if not method.is_unary:
            return self._for_as_long(behaviour, method, rule)
        admit = _Door(self._callers, method, rule).admit

        def admitted(request: Any, context: ServicerContext[Any, Any]) -> Awaitable[Any]:
            # gRPC runs each call in a task of its own, and the value ends with that: the
            # interceptors around this one may still log whose call it was.
            current_caller.set(admit(context))
            return behaviour(request, context)

        return admitted

    def _for_as_long(self, behaviour: Behaviour, method: Method, rule: Rule) -> Behaviour:
        """Let a stream go on for as long as its caller may call."""
        admit = _Door(self._callers, method, rule).admit

        async def admitted(request: Any, context: ServicerContext[Any, Any]) -> Any:
            current_caller.set(admit(context))
            answer = behaviour(request, context)
            return await _Admission(lambda: admit(context)).during(answer)

        return admitted


class _Admission:
    """Ends a stream whose caller was taken out, lost its role or let its token expire."""

    def __init__(self, admit: Callable[[], object]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task
        self._task = task
        self._admit = admit
        self._refusal: Failure | None = None
        self._look_later()

    async def during(self, answer: Awaitable[Any]) -> Any:
        """Return the answer, or raise what the caller is told by now."""
        try:
            return await answer
        except asyncio.CancelledError:
            if self._refusal is None:
                raise
            self._task.uncancel()
            raise self._refusal from None
        finally:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        try:
            self._admit()
        except Failure as refusal:
            self._refusal = refusal
            self._task.cancel()
        else:
            self._look_later()


class _Door:
    """Lets those call a method who may."""

    def __init__(self, callers: Watched[Callers] | None, method: Method, rule: Rule) -> None:
        self._callers = callers
        self._method = method
        self._roles = rule.roles

    def admit(self, context: Context) -> Caller:
        """Return who makes a call if it may, or raise what it is told."""
        caller = self._caller(context)
        if caller.roles.isdisjoint(self._roles):
            self._log("no role for this method", caller, context)
            raise CallerNotAllowed(self._roles)
        return caller

    def _caller(self, context: Context) -> Caller:
        is_here = str(context.peer()).startswith(_HERE)
        if self._callers is None:
            return LOCAL if is_here else self._unknown("not from this machine", context)
        connection: _Connection = context.auth_context()
        if not is_here and b"ssl" not in connection.get("transport_security_type", ()):
            self._unknown("not encrypted", context)
        callers, names = self._callers.value, _names(connection)
        found = {*self._by_token(callers, context), *callers.with_names(names)}
        if len(found) > 1:
            self._unknown("credentials of several callers", context)
        if not found:
            self._unknown("certificate of nobody" if names else "no credentials", context)
        return found.pop()

    def _by_token(self, callers: Callers, context: Context) -> Collection[Caller]:
        """Find whose token was sent: one caller, or none if nothing was sent."""
        metadata = context.invocation_metadata() or ()
        sent = [value for key, value in metadata if key == "authorization"]
        if not sent:
            return ()
        bearer = _BEARER.fullmatch(str(sent[0])) if len(sent) == 1 else None
        if bearer is None:
            self._unknown("no bearer token in the authorization", context)
        caller = callers.with_token(bearer[1])
        if caller is None:
            once = callers.once_with_token(bearer[1])
            self._unknown("token unknown or expired", context, once)
        return (caller,)

    def _unknown(self, why: str, context: Context, caller: Caller | None = None) -> NoReturn:
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


def _names(connection: _Connection) -> Collection[str]:
    """Return the names in the certificate that the other end has shown and gRPC has verified."""
    ids = (name.decode(errors="replace") for name in connection.get("peer_spiffe_id", ()))
    hosts = (name.decode(errors="replace") for name in connection.get("peer_dns", ()))
    return [*ids, *(dns_name(host) for host in hosts)]
