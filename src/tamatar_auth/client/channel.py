"""A channel for blocking calls, which gives them deadlines and raises `AuthError`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from tamatar_auth.client.call_defaults import Defaults, defaults
from tamatar_auth.client.errors import auth_error

Metadata = Callable[[], Any]
"""Returns what each call tells of this caller."""


class AuthChannel(grpc.Channel):
    """Stands before a channel of gRPC."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, method: str, *args: Any, **named: Any) -> Any:
        """Return what calls a method."""
        made = self._channel.unary_unary(method, *args, **named)
        return _Unary(made, defaults(method), self._metadata)

    def stream_unary(self, method: str, *args: Any, **named: Any) -> Any:
        """Return what calls a method with many requests."""
        made = self._channel.stream_unary(method, *args, **named)
        return _Unary(made, defaults(method), self._metadata)

    def unary_stream(self, method: str, *args: Any, **named: Any) -> Any:
        """Return what calls a method that answers more than once."""
        made = self._channel.unary_stream(method, *args, **named)
        return _Streaming(made, defaults(method), self._metadata)

    def stream_stream(self, method: str, *args: Any, **named: Any) -> Any:
        """Return what calls a method with many requests and answers."""
        made = self._channel.stream_stream(method, *args, **named)
        return _Streaming(made, defaults(method), self._metadata)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:  # noqa: FBT001, FBT002 - gRPC's
        """Tell a function of each change of the connection."""
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        """Tell it no more."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    def __init__(self, made: Any, given: Defaults, metadata: Metadata) -> None:
        self._made = made
        self._defaults = given
        self._metadata = metadata

    def _options(self, named: dict[str, Any]) -> dict[str, Any]:
        if named.get("timeout") is None:
            named["timeout"] = self._defaults.timeout
        named["metadata"] = (*self._metadata(), *(named.get("metadata") or ()))
        return named


class _Unary(_Method):
    """Calls a method that answers once: at once, with the call, or as a future."""

    def __call__(self, request: Any, timeout: float | None = None, **named: Any) -> Any:
        named = self._options(named | {"timeout": timeout})
        with _translated():
            return self._made(self._defaults.prepared(request), **named)

    def with_call(self, request: Any, timeout: float | None = None, **named: Any) -> Any:
        named = self._options(named | {"timeout": timeout})
        with _translated():
            return self._made.with_call(self._defaults.prepared(request), **named)

    def future(self, request: Any, timeout: float | None = None, **named: Any) -> Any:
        named = self._options(named | {"timeout": timeout})
        return _Future(self._made.future(self._defaults.prepared(request), **named))


class _Streaming(_Method):
    """Calls a method that answers more than once."""

    def __call__(self, request: Any, timeout: float | None = None, **named: Any) -> Any:
        named = self._options(named | {"timeout": timeout})
        return _Answers(self._made(self._defaults.prepared(request), **named))


class _Call:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Future(_Call):
    """A call in flight."""

    def result(self, timeout: float | None = None) -> Any:
        with _translated():
            return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return auth_error(error) if isinstance(error, grpc.RpcError) else error


class _Answers(_Call):
    """The answers of a call, as they come."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with _translated():
            return next(self._call)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise auth_error(error) from None
