"""The gRPC handlers around the methods of the fake service."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from tamatar.auth.v1.error_reason_pb2 import ErrorReason
from tamatar_auth.client.testing.errors import RefusedError
from tamatar_auth.client.testing.field_rules import broken_rules
from tamatar_auth.client.testing.store import FakeStore

_UNIMPLEMENTED = (
    "FakeAuthServer does not answer {method}. Call a real service instead: the fixture "
    "real_auth_server, or `tamatar-auth serve --dev`."
)


class CallLog:
    """The calls so far, and the failures that tests ordered for the next ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.is_available = True
        self._failures: defaultdict[str, deque[ErrorReason.ValueType]] = defaultdict(deque)

    def fail_next(self, method: str, reason: ErrorReason.ValueType) -> None:
        """Let the next call of a method fail, after those that fail already."""
        self._failures[method].append(reason)

    def begin(self, method: str, request: Message) -> None:
        """Count a call, and raise `RefusedError` if it fails before its method runs."""
        self.counts[method] += 1
        if broken := list(broken_rules(request)):
            raise RefusedError(ErrorReason.INVALID_FIELDS, broken)
        if self._failures[method]:
            raise RefusedError(self._failures[method].popleft())
        if not self.is_available:
            raise RefusedError(ErrorReason.STORAGE_UNAVAILABLE)


class FakeHandlers(grpc.GenericRpcHandler):
    """The handlers of all methods. Methods that no servicer has fail with UNIMPLEMENTED."""

    def __init__(self, servicers: dict[Any, Any], store: FakeStore, log: CallLog) -> None:
        """Make the handlers of servicers, by the descriptors of their services."""
        self._store = store
        self._log = log
        self._handlers = {
            f"/{descriptor.full_name}/{method.name}": self._handler(
                method, getattr(servicer, method.name)
            )
            for descriptor, servicer in servicers.items()
            for method in descriptor.methods
            if hasattr(servicer, method.name)
        }

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method."""
        path = handler_call_details.method
        return self._handlers.get(path) or _unimplemented(path.rpartition(".")[2])

    def _handler(self, method: Any, behaviour: Any) -> Any:
        def unary(request: Any, context: Any) -> Any:
            try:
                with self._store.lock:
                    self._log.begin(method.name, request)
                    return behaviour(request)
            except RefusedError as refused:
                refused.abort(context)

        def stream(request: Any, context: Any) -> Iterator[Any]:
            try:
                with self._store.lock:
                    self._log.begin(method.name, request)
                yield from behaviour(request, context)
            except RefusedError as refused:
                refused.abort(context)

        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        codec = (request_type.FromString, response_type.SerializeToString)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, *codec)
        return grpc.unary_unary_rpc_method_handler(unary, *codec)


def _unimplemented(method: str) -> Any:
    def refuse(_requests: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNIMPLEMENTED.format(method=method))

    # A handler of streams reads no request, so it fits every kind of method.
    return grpc.stream_stream_rpc_method_handler(refuse)
