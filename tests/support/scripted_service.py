"""A server that fails calls as a test wants, and records its calls."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from grpc import StatusCode


class Asked(NamedTuple):
    """One attempt of a call, as the server received it."""

    method: str
    request: bytes
    metadata: dict[str, Any]
    remaining: float | None


class Scripted(grpc.GenericRpcHandler):
    """Fails calls with the given statuses in turn, then succeeds with empty responses."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refusals: list[StatusCode] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if not handler_call_details.method.startswith("/tamatar."):
            return None  # clients go on without the health of a server that has none

        async def answer(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata())
            method = handler_call_details.method.rpartition("/")[2]
            self.asked.append(Asked(method, request, metadata, context.time_remaining()))
            if self.refusals:
                await context.abort(self.refusals.pop(0), "refused by the test")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def taken(self) -> Sequence[Asked]:
        """Return the recorded attempts, and forget them."""
        asked, self.asked = self.asked, []
        return asked
