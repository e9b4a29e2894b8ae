"""Repeats a call whose transaction PostgreSQL rolled back."""

import asyncio
from typing import Any

import structlog

from tamatar_auth.interceptors.base import Behaviour, Context, Interceptor, Method
from tamatar_auth.storage.retry import RETRIED_ERRORS, backoff, was_rolled_back

MAX_RETRIES = 3

log = structlog.get_logger(__name__)


class RetryInterceptor(Interceptor):
    """Repeats unary calls up to three times, with a jittered backoff.

    A call is repeated only if its transaction was certainly rolled back. A servicer writes in
    one transaction, so nothing of the first run is left.
    """

    def wrap(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """Repeat the behaviour of a unary method; leave streams alone."""
        if not method.is_unary:
            return behaviour

        async def repeated(request: Any, context: Context) -> Any:
            for attempt in range(MAX_RETRIES):
                try:
                    return await behaviour(request, context)
                except RETRIED_ERRORS as error:
                    if not was_rolled_back(error):
                        raise
                    log.info("call runs again", method=method.name, attempt=attempt + 1)
                await asyncio.sleep(backoff(attempt))
            return await behaviour(request, context)

        return repeated
