"""A channel for blocking calls. It sets deadlines and raises `AuthError`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from tamatar_auth.client.call_defaults import CallDefaults, defaults_for
from tamatar_auth.client.errors import auth_error

CallMetadata = Callable[[], Any]
"""Returns the metadata that identifies this caller, for each call."""


class AuthChannel(grpc.Channel):
    """Wraps a channel of gRPC."""

    def __init__(self, channel: grpc.Channel, metadata: CallMetadata) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method."""
        method_callable = self._channel.unary_unary(method, *args, **kwargs)
        return _UnaryMethod(method_callable, defaults_for(method), self._metadata)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes a stream."""
        method_callable = self._channel.stream_unary(method, *args, **kwargs)
        return _UnaryMethod(method_callable, defaults_for(method), self._metadata)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that returns a stream."""
        method_callable = self._channel.unary_stream(method, *args, **kwargs)
        return _StreamingMethod(method_callable, defaults_for(method), self._metadata)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes and returns a stream."""
        method_callable = self._channel.stream_stream(method, *args, **kwargs)
        return _StreamingMethod(method_callable, defaults_for(method), self._metadata)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:  # noqa: FBT001, FBT002 - gRPC's
        """Call a function on each change of the connection's state."""
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        """Stop calling a function that was subscribed."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Close the connections and cancel calls in flight."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Method:
    def __init__(
        self, method_callable: Any, defaults: CallDefaults, metadata: CallMetadata
    ) -> None:
        self._method_callable = method_callable
        self._defaults = defaults
        self._metadata = metadata

    def _call_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._defaults.timeout
        kwargs["metadata"] = (*self._metadata(), *(kwargs.get("metadata") or ()))
        return kwargs


class _UnaryMethod(_Method):
    """Calls a method that returns one response: directly, with its call, or as a future."""

    def __call__(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        kwargs = self._call_options(kwargs | {"timeout": timeout})
        with _auth_errors():
            return self._method_callable(self._defaults.prepare(request), **kwargs)

    def with_call(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        kwargs = self._call_options(kwargs | {"timeout": timeout})
        with _auth_errors():
            return self._method_callable.with_call(self._defaults.prepare(request), **kwargs)

    def future(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        kwargs = self._call_options(kwargs | {"timeout": timeout})
        return _Future(self._method_callable.future(self._defaults.prepare(request), **kwargs))


class _StreamingMethod(_Method):
    """Calls a method that returns a stream."""

    def __call__(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        kwargs = self._call_options(kwargs | {"timeout": timeout})
        return _ResponseIterator(self._method_callable(self._defaults.prepare(request), **kwargs))


class _Call:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Future(_Call):
    """A call in flight."""

    def result(self, timeout: float | None = None) -> Any:
        with _auth_errors():
            return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return auth_error(error) if isinstance(error, grpc.RpcError) else error


class _ResponseIterator(_Call):
    """The responses of a stream."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with _auth_errors():
            return next(self._call)


@contextlib.contextmanager
def _auth_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise auth_error(error) from None
