"""Pages of lists, and the tokens that continue them."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import BrokenRule, RefusedError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

RecordT = TypeVar("RecordT")


class Pages:
    """Cuts lists into pages, and keeps the tokens of the next pages."""

    def __init__(self) -> None:
        self._issued: dict[str, tuple[object, Any]] = {}

    def cut(
        self,
        records: Iterable[RecordT],
        request: Any,
        query: object,
        *,
        key: Callable[[RecordT], Any],
        descending: bool,
    ) -> tuple[Sequence[RecordT], str]:
        """Return the page of a request, and the token of the next page or an empty text.

        Raise `RefusedError` if the request has a token that was not issued for this query.
        """
        rows = sorted(records, key=key, reverse=descending)
        if request.page_token:
            its_query, after = self._issued.get(request.page_token, (None, None))
            if its_query != query:
                rule = BrokenRule("page_token", "must come from the previous page")
                raise RefusedError(ErrorReason.INVALID_PAGE_TOKEN, [rule])
            rows = [row for row in rows if (key(row) < after if descending else key(row) > after)]
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        if len(rows) <= size:
            return rows, ""
        token = secrets.token_urlsafe()
        self._issued[token] = (query, key(rows[size - 1]))
        return rows[:size], token
