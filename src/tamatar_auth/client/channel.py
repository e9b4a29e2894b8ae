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
        return self._wrapped(method, self._channel.unary_unary(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes a stream."""
        return self._wrapped(method, self._channel.stream_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that returns a stream."""
        return self._wrapped(method, self._channel.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a method that takes and returns a stream."""
        return self._wrapped(method, self._channel.stream_stream(method, *args, **kwargs))

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

    def _wrapped(self, method: str, method_callable: Any) -> "_Method":
        return _Method(method_callable, defaults_for(method), self._metadata)


class _Method:
    """Calls a method: directly, with its call, or as a future."""

    def __init__(
        self, method_callable: Any, defaults: CallDefaults, metadata: CallMetadata
    ) -> None:
        self._method_callable = method_callable
        self._defaults = defaults
        self._metadata = metadata

    def __call__(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        result = self._run(self._method_callable, request, timeout, kwargs)
        return _Call(result) if isinstance(result, grpc.Call) else result

    def with_call(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return self._run(self._method_callable.with_call, request, timeout, kwargs)

    def future(self, request: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return _Call(self._run(self._method_callable.future, request, timeout, kwargs))

    def _run(
        self, run: Callable[..., Any], request: Any, timeout: float | None, kwargs: dict[str, Any]
    ) -> Any:
        kwargs["timeout"] = self._defaults.timeout if timeout is None else timeout
        kwargs["metadata"] = (*self._metadata(), *(kwargs.get("metadata") or ()))
        with auth_errors():
            return run(self._defaults.prepare(request), **kwargs)


class _Call:
    """A call in flight: a future, or an iterator of the responses of a stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with auth_errors():
            return next(self._call)

    def result(self, timeout: float | None = None) -> Any:
        with auth_errors():
            return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return auth_error(error) if isinstance(error, grpc.RpcError) else error


@contextlib.contextmanager
def auth_errors() -> Iterator[None]:
    """Raise an `AuthError` in place of an error of gRPC."""
    try:
        yield
    except grpc.RpcError as error:
        raise auth_error(error) from None
