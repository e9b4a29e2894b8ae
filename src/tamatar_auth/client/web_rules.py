"""The rules that guards of web applications share: paths, tokens and answers."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus

from grpc import StatusCode

from tamatar_auth.client.guard_rules import CallRejected, extract_token
from tamatar_auth.client.method_rules import as_tuple, no_session_for_step_up
from tamatar_auth.client.step_up import StepUp, require_step_ups

_STEP_UP_PATH = re.compile(r"/[^*?#{}<>]*|/([^*?#{}<>]*/)?\*")
"""A path, or a prefix. No path has a query, or parameters such as `{number}`."""


class PathSet:
    """Paths, and prefixes that end with `/*`."""

    def __init__(self, paths: Iterable[str]) -> None:
        paths = as_tuple(paths)
        self._exact = frozenset(paths)
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        found = path in self._exact or path.startswith(self._prefixes or ("\0",))
        return found and _is_plain(path)


class StepUpPaths:
    """The step-ups of paths, and of prefixes that end with `/*`.

    A path decides before a prefix, and a longer prefix before a shorter one.
    """

    def __init__(self, step_up: Mapping[str, StepUp]) -> None:
        names = sorted(step_up, key=lambda name: (name.endswith("/*"), -len(name)))
        self._step_up = {name: step_up[name] for name in names}

    def find(self, path: str) -> StepUp | None:
        """Return the step-up of a path, with or without a slash at its end, or None.

        The application may resolve a path that is not plain to any other.
        """
        if not _is_plain(path):
            return StepUp.strictest(self._step_up.values()) if self._step_up else None
        path = path.rstrip("/")
        for name, needed in self._step_up.items():
            base = name.removesuffix("*").rstrip("/")
            if path == base or (name.endswith("/*") and path.startswith(f"{base}/")):
                return needed
        return None


def _is_plain(path: str) -> bool:
    """Return whether no application resolves a path to another, as /static/../pay to /pay."""
    return not re.search(r"//|\\|/\.{1,2}(/|$)", path)


class RequestRules:
    """Which requests need a session, and which token they have."""

    def __init__(
        self,
        *,
        open_paths: Iterable[str],
        optional_paths: Iterable[str],
        step_up: Mapping[str, StepUp],
        cookie: str | None,
    ) -> None:
        """Raise `ValueError` for a step-up that no request would need.

        Raise `TypeError` if `step_up` has other values than step-ups.
        """
        require_step_ups(step_up)
        self._open, self._optional = PathSet(open_paths), PathSet(optional_paths)
        self._step_up = StepUpPaths(step_up)
        self._cookie = cookie
        for name in step_up:
            if not _STEP_UP_PATH.fullmatch(name) or not _is_plain(name):
                raise ValueError(
                    f"{name!r} is no path, such as /pay, and no prefix, such as /pay/*"
                )
            if not self.requires_session(name):
                raise no_session_for_step_up(name)

    def is_open(self, path: str) -> bool:
        """Return whether a path needs no session, and ignores one."""
        return path in self._open

    def requires_session(self, path: str) -> bool:
        """Return whether a request for a path is rejected without a session."""
        return path not in self._open and path not in self._optional

    def step_up(self, path: str) -> StepUp | None:
        """Return the step-up that a request for a path needs, or None."""
        return self._step_up.find(path) if self.requires_session(path) else None

    def find_token(
        self, path: str, authorizations: Sequence[str], cookies: Sequence[str]
    ) -> str | None:
        """Return the token in the headers of a request, or None if the path needs none.

        Raises `CallRejected` if there is no token, a malformed one, or two.
        """
        if len(authorizations) > 1:
            raise CallRejected.unknown_session()
        if authorizations:
            return extract_token(authorizations[0], is_bearer=True)
        pairs = [part.strip().partition("=") for part in ";".join(cookies).split(";")]
        values = {value for name, _, value in pairs if name == self._cookie}
        if len(values) == 1:
            return extract_token(values.pop(), is_bearer=False)
        if values or path not in self._optional:
            raise CallRejected.unknown_session()
        return None


def is_preflight(method: str, headers: Iterable[str]) -> bool:
    """Return whether a request is the preflight of CORS, which browsers send without credentials.

    The names of the headers are in lower case.
    """
    return method == "OPTIONS" and {"origin", "access-control-request-method"} <= set(headers)


def problem(rejection: CallRejected) -> tuple[int, Mapping[str, str], bytes]:
    """Return the status, the headers and the body that answer a rejected request."""
    status, hint = status_and_hint(rejection)
    fields = {"title": status.phrase, "status": status.value, "detail": rejection.message}
    reason = {"reason": rejection.reason} if rejection.reason else {}
    body = json.dumps({**fields, **reason, **rejection.missing}).encode()
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **hint,
    }
    return status.value, headers, body


def status_and_hint(rejection: CallRejected) -> tuple[HTTPStatus, Mapping[str, str]]:
    """Return the status of a rejection, and the header that says how to be admitted."""
    if rejection.code is not StatusCode.UNAUTHENTICATED:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}
    challenge = ", ".join(f'{name}="{value}"' for name, value in _challenge(rejection.missing))
    return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()}


def _challenge(missing: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the parameters by which RFC 9470 asks for a step-up."""
    if missing:
        yield "error", "insufficient_user_authentication"
    if "assurance_level" in missing:
        yield "acr_values", missing["assurance_level"]
    if "max_authentication_age" in missing:
        yield "max_age", missing["max_authentication_age"].partition(".")[0]  # whole seconds
