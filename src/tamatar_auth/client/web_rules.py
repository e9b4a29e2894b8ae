"""The rules that guards of web applications share: paths, tokens and answers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from grpc import StatusCode

from tamatar_auth.client.guard_rules import CallRejected, as_tuple, extract_token


class PathSet:
    """Paths, and prefixes that end with `/*`."""

    def __init__(self, paths: Iterable[str]) -> None:
        paths = as_tuple(paths)
        self._exact = frozenset(paths)
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        # The application may resolve /static/../admin to /admin.
        is_plain = not re.search(r"//|\\|/\.{1,2}(/|$)", path)
        return is_plain and (path in self._exact or path.startswith(self._prefixes or ("\0",)))


class RequestRules:
    """Which requests need a session, and which token they have."""

    def __init__(
        self, *, open_paths: Iterable[str], optional_paths: Iterable[str], cookie: str | None
    ) -> None:
        self._open, self._optional = PathSet(open_paths), PathSet(optional_paths)
        self._cookie = cookie

    def is_open(self, path: str) -> bool:
        """Return whether a path needs no session, and ignores one."""
        return path in self._open

    def requires_session(self, path: str) -> bool:
        """Return whether a request for a path is rejected without a session."""
        return path not in self._open and path not in self._optional

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
    is_unauthenticated = rejection.code is StatusCode.UNAUTHENTICATED
    status = HTTPStatus.UNAUTHORIZED if is_unauthenticated else HTTPStatus.SERVICE_UNAVAILABLE
    fields = {"title": status.phrase, "status": status.value, "detail": rejection.message}
    body = json.dumps(fields | ({"reason": rejection.reason} if rejection.reason else {})).encode()
    hint = {"WWW-Authenticate": "Bearer"} if is_unauthenticated else {"Retry-After": "1"}
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **hint,
    }
    return status.value, headers, body
