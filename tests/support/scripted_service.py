"""A server that answers every call as a test says, and notes what it was asked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
from grpc import StatusCode


class Asked(NamedTuple):
    """What one try of a call told."""

    method: str
    request: bytes
    metadata: dict[str, Any]
    remaining: float | None


class Scripted(grpc.GenericRpcHandler):
    """Refuses with the next statuses that it was given, and answers with nothing after them."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refusals: list[StatusCode] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata())
            method = handler_call_details.method.rpartition("/")[2]
            self.asked.append(Asked(method, request, metadata, context.time_remaining()))
            if self.refusals:
                await context.abort(self.refusals.pop(0), "as the test wants it")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def taken(self) -> Sequence[Asked]:
        """Return what was asked, and forget it."""
        asked, self.asked = self.asked, []
        return asked
