"""Authenticates the caller of each call, and checks that it may call the method.

A caller proves its identity with a bearer token (`authorization: Bearer tmc_…`) or with the
certificate of its connection. Nothing else in the metadata is believed. The rules for each
method are in `security/authorization.py`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from tamatar_auth.config.watched_files import WatchedFiles
from tamatar_auth.errors import CallerNotAllowed, CallerUnknown, Failure
from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method, peer_name
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
        authenticator = Authenticator(self._callers, method, rule)

        def authenticated(request: Any, context: Context) -> Awaitable[Any]:
            # Never reset: gRPC runs each call in its own task, and the interceptors around this
            # one may still log the caller.
            current_caller.set(authenticator.authenticate(authenticator.read(context)))
            return behaviour(request, context)

        return authenticated

    def _wrap_stream(self, behaviour: Behaviour, method: Method, rule: AccessRule) -> Behaviour:
        """Authenticate when a stream begins, and again every few seconds."""
        authenticator = Authenticator(self._callers, method, rule)

        async def authenticated(request: Any, context: Context) -> Any:
            credentials = authenticator.read(context)
            current_caller.set(authenticator.authenticate(credentials))
            answer = behaviour(request, context)
            recheck = _StreamRecheck(lambda: authenticator.authenticate(credentials))
            return await recheck.run(answer)

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


class Credentials(NamedTuple):
    """The proofs of identity that a call arrived with.

    It is read once, because gRPC forgets the peer of a call that was cancelled.
    """

    peer: str
    is_encrypted: bool = False
    names: Collection[str] = ()
    """The names in the certificate of the connection."""
    authorizations: Sequence[str] = ()
    """The values of `authorization` in the metadata."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.peer!r})"  # without the token

    @property
    def is_local(self) -> bool:
        """Whether the connection comes from this machine."""
        return self.peer.startswith(_LOCAL_PEERS)


class Authenticator:
    """Authenticates the callers of one method."""

    def __init__(
        self, callers: WatchedFiles[Callers] | None, method: Method, rule: AccessRule
    ) -> None:
        self._callers = callers
        self._method = method
        self._roles = rule.roles

    def read(self, context: Context) -> Credentials:
        """Return the credentials of a call, or raise `CancelledError` if the call has ended."""
        peer = peer_name(context)
        if self._callers is None:
            return Credentials(peer)
        auth_context: _AuthContext = context.auth_context()
        metadata = context.invocation_metadata() or ()
        return Credentials(
            peer,
            is_encrypted=b"ssl" in auth_context.get("transport_security_type", ()),
            names=_names(auth_context),
            authorizations=[str(value) for key, value in metadata if key == "authorization"],
        )

    def authenticate(self, credentials: Credentials) -> Caller:
        """Return the caller, or raise `CallerUnknown` or `CallerNotAllowed`."""
        caller = self._identify(credentials)
        if caller.roles.isdisjoint(self._roles):
            self._log("no role for this method", caller, credentials)
            raise CallerNotAllowed(self._roles)
        return caller

    def _identify(self, credentials: Credentials) -> Caller:
        is_local, names = credentials.is_local, credentials.names
        if self._callers is None:
            return LOCAL_CALLER if is_local else self._refuse("not from this machine", credentials)
        if not is_local and not credentials.is_encrypted:
            self._refuse("not encrypted", credentials)
        callers = self._callers.value
        found = {*self._find_by_token(callers, credentials), *callers.find_by_names(names)}
        if len(found) > 1:
            self._refuse("credentials of several callers", credentials)
        if not found:
            self._refuse("certificate of no caller" if names else "no credentials", credentials)
        return found.pop()

    def _find_by_token(self, callers: Callers, credentials: Credentials) -> Collection[Caller]:
        """Return the caller of the token that was sent, if one was sent."""
        sent = credentials.authorizations
        if not sent:
            return ()
        bearer = _BEARER.fullmatch(sent[0]) if len(sent) == 1 else None
        if bearer is None:
            self._refuse("no bearer token in the authorization", credentials)
        caller = callers.find_by_token(bearer[1])
        if caller is None:
            expired = callers.find_token_owner(bearer[1])
            self._refuse("token unknown or expired", credentials, expired)
        return (caller,)

    def _refuse(self, why: str, credentials: Credentials, caller: Caller | None = None) -> NoReturn:
        self._log(why, caller, credentials)
        raise CallerUnknown

    def _log(self, why: str, caller: Caller | None, credentials: Credentials) -> None:
        audit.record(
            Event.CALLER_REFUSED,
            method=f"{self._method.service}/{self._method.name}",
            why=why,
            refused=caller.name if caller else None,
            peer=credentials.peer,
        )


def _names(auth_context: _AuthContext) -> Collection[str]:
    """Return the names in the certificate of the peer, which gRPC has verified."""
    ids = (name.decode(errors="replace") for name in auth_context.get("peer_spiffe_id", ()))
    hosts = (name.decode(errors="replace") for name in auth_context.get("peer_dns", ()))
    return [*ids, *(dns_name(host) for host in hosts)]
