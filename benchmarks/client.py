"""Drives a server with gRPC's client for Python. Each call has a number of its own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from benchmarks.calls import Call
from benchmarks.plan import Load
from benchmarks.processes import cpu_seconds
from benchmarks.samples import BenchmarkError, Sample
from benchmarks.servers import Server

CONNECTIONS = 4
_CHECK_EVERY = 20
"""One response of this many is decoded and checked."""

# By default gRPC shares one connection for an address.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@contextlib.asynccontextmanager
async def methods(server: Server, call: Call, count: int = CONNECTIONS) -> AsyncIterator[list[Any]]:
    """Open connections, and yield the method on each of them, for encoded messages."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(server.address, options=_OPTIONS)
            )
            for _ in range(count)
        ]
        yield [channel.unary_unary(call.path) for channel in channels]


async def checked_call(server: Server, call: Call, number: int) -> bytes:
    """Make a call and return its response. Raise `BenchmarkError` if it is wrong."""
    async with methods(server, call, 1) as (method,):
        response: bytes = await method(call.request(number), timeout=10)
    _check_response(call, number, response)
    return response


async def closed_loop(
    server: Server,
    call: Call,
    numbers: Iterator[int],
    load: Load,
) -> Sample:
    """Keep a number of calls in flight, or raise `BenchmarkError` if one fails."""
    latencies: list[float] = []
    calls = 0
    async with methods(server, call) as method_callables:
        before, began = cpu_seconds(server.pid), time.perf_counter()
        counted_from, end = began + load.warm_up, began + load.warm_up + load.seconds

        async def one_after_another(method: Any) -> None:
            nonlocal calls
            while (start := time.perf_counter()) < end:
                number = next(numbers)
                response = await _call_method(call, method, number)
                calls += 1
                now = time.perf_counter()
                if counted_from <= now < end:
                    latencies.append(now - start)
                if calls % _CHECK_EVERY == 0:
                    _check_response(call, number, response)

        await asyncio.gather(
            *(
                one_after_another(method_callables[place % len(method_callables)])
                for place in range(load.in_flight)
            )
        )
        after = cpu_seconds(server.pid)
    cpu = None if before is None or after is None else after - before
    return Sample(latencies=sorted(latencies), seconds=load.seconds, calls=calls, cpu=cpu)


async def paced(
    server: Server,
    call: Call,
    numbers: Iterator[int],
    *,
    rate: float,
    until: asyncio.Event,
) -> Sample:
    """Make `rate` calls a second until `until` is set, or raise `BenchmarkError`.

    Calls are started at fixed times, however long responses take. The latency of a call counts
    from the time at which it was due.
    """
    latencies: list[float] = []
    async with methods(server, call) as method_callables:

        async def timed_call(method: Any, number: int, due: float) -> None:
            response = await _call_method(call, method, number)
            latencies.append(time.perf_counter() - due)
            _check_response(call, number, response)

        await _call_method(
            call, method_callables[0], next(numbers)
        )  # connects before the measurement
        began = time.perf_counter()
        async with asyncio.TaskGroup() as calls:
            count = 0
            while not until.is_set():
                due = began + count / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                calls.create_task(
                    timed_call(method_callables[count % len(method_callables)], next(numbers), due)
                )
                count += 1
        took = time.perf_counter() - began
    return Sample(latencies=sorted(latencies), seconds=took, calls=count)


def cycle(numbers: range, *, step: int = 7919) -> Iterator[int]:
    """Repeat the numbers endlessly, in large steps."""
    place = 0
    while True:
        yield numbers[place % len(numbers)]
        place += step


async def _call_method(call: Call, method: Any, number: int) -> bytes:
    try:
        response: bytes = await method(call.request(number), timeout=10)
    except grpc.aio.AioRpcError as error:
        message = f"{call.name} ended with {error.code().name}: {error.details()}"
        raise BenchmarkError(message) from None
    return response


def _check_response(call: Call, number: int, response: bytes) -> None:
    if not call.is_right(number, response):
        raise BenchmarkError(f"{call.name} returned a wrong response for number {number}")
