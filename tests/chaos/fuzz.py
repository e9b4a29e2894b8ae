"""A million made-up calls: how does each of them end?

Requests of every method are well-formed, at the bounds of what is allowed or beyond them, or no
messages at all. Values from earlier responses (ids, tokens, addresses) are sent again, so that
calls get further than to the first refusal. No call may end UNKNOWN or INTERNAL, and no status
may hold what the caller sent.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

from tamatar_auth.embedded.postgres import EmbeddedPostgres
from tamatar_auth.interceptors.deadlines import PASSWORD_METHODS
from tamatar_auth.migrator.migrations import Migrations
from tamatar_auth.server.components import HEALTH_SERVICE, SERVICES
from tests.chaos.fuzzed_messages import CANARY, Messages, mutated
from tests.chaos.status_messages import SENTENCES, TELLTALES
from tests.support.canaries import FORMS
from tests.support.commands import IMPATIENT, serving

AT_ONCE = 128
CHANNELS = 4
DEADLINE = 20.0
STREAMED = 0.05
"""Seconds after which a call is cancelled at most: every endless stream, and some others."""

BAD = {StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.UNIMPLEMENTED, StatusCode.DATA_LOSS}

OF_GRPC = (
    *("Deadline Exceeded", "Locally cancelled by application!", "CANCELLED", "Stream removed"),
    *("SERVER: Received message larger than max", "Received message larger than max"),
)
"""The beginnings of messages that gRPC makes up by itself."""

LOST = "Internal error from Core"
"""What grpc.aio makes up, as INTERNAL, where the server ends a call with many requests while
the client sends them: it loses the status that the server sent."""

MOST_KEPT = 50


@dataclass
class Tally:
    """The number of calls by outcome, and the problems."""

    calls: int = 0
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    ends: int = 0
    """The number of calls with a forbidden status."""
    leaks: int = 0
    """The number of statuses with a leak."""

    def add(self, method: str, status: str) -> None:
        """Count a call."""
        self.calls += 1
        self.statuses.setdefault(method, Counter())[status] += 1

    def __str__(self) -> str:
        lines = [
            f"  {method:<26} " + ", ".join(f"{name} {n}" for name, n in counted.most_common())
            for method, counted in sorted(self.statuses.items())
        ]
        return "\n".join(
            [*lines, f"{self.calls} calls, {self.ends} ended as none may, {self.leaks} leaked"]
        )


def methods() -> Sequence[MethodDescriptor]:
    """Return every method of the services, by their descriptors."""
    pool = descriptor_pool.Default()
    services = [pool.FindServiceByName(name) for name in (*SERVICES, HEALTH_SERVICE)]
    return [method for service in services for method in service.methods]


class Fuzzer:
    """Calls the methods of a server with messages made up from a seed."""

    def __init__(self, address: str, seed: int) -> None:
        self.tally = Tally()
        self._address = address
        self._seed = seed
        self._methods = methods()
        self._weights = [_weight(method.name) for method in self._methods]
        self._left = 0
        self._messages = Messages()

    async def run(self, calls: int, at_once: int = AT_ONCE) -> Tally:
        """Make a number of calls."""
        self._left = calls
        async with contextlib.AsyncExitStack() as opened:
            channels = [
                await opened.enter_async_context(_channel(self._address, number))
                for number in range(CHANNELS)
            ]
            workers = [
                self._work(channels[number % CHANNELS], random.Random(f"{self._seed} {number}"))
                for number in range(at_once)
            ]
            await asyncio.gather(*workers)
        return self.tally

    def stop(self) -> None:
        """Start no more calls."""
        self._left = 0

    async def _work(self, channel: grpc.aio.Channel, chance: random.Random) -> None:
        while self._left > 0:
            self._left -= 1
            (method,) = chance.choices(self._methods, self._weights)
            requests = [self._request(method, chance) for _ in range(_count(method, chance))]
            call = _begun(channel, method, requests, chance)
            try:
                async with asyncio.timeout(DEADLINE + 10):
                    await self._ended(call, method, requests, chance)
            except TimeoutError:
                self._report(method, requests, "never ended")
                call.cancel()

    def _request(self, method: MethodDescriptor, chance: random.Random) -> bytes:
        if chance.random() < 0.02:
            return chance.randbytes(chance.choice([1, 7, 100, 1000]))
        if chance.random() < 0.001:
            return chance.randbytes(chance.choice([65_000, 66_000]))
        data = self._messages.of(method.input_type, chance).SerializeToString()
        return mutated(data, chance) if chance.random() < 0.2 else data

    async def _ended(
        self, call: Any, method: MethodDescriptor, requests: Sequence[bytes], chance: random.Random
    ) -> None:
        never_ends = method.name.startswith("Watch")
        if never_ends or chance.random() < (0.3 if method.server_streaming else 0.01):
            seconds = chance.uniform(0, STREAMED)
            asyncio.get_running_loop().call_later(seconds, call.cancel)
        try:
            if method.server_streaming:
                async for answer in call:
                    self._learn(method, answer, chance)
            else:
                self._learn(method, await call, chance)
        except grpc.aio.AioRpcError as error:
            self._look(method, requests, error)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            self.tally.add(method.name, "CANCELLED")
        else:
            self.tally.add(method.name, "OK")

    def _learn(self, method: MethodDescriptor, answer: bytes, chance: random.Random) -> None:
        if chance.random() < 0.2:
            self._messages.learn(GetMessageClass(method.output_type).FromString(answer))

    def _look(
        self, method: MethodDescriptor, requests: Sequence[bytes], error: grpc.aio.AioRpcError
    ) -> None:
        """Count how a call ended, and report a forbidden end."""
        if method.client_streaming and error.details() == LOST:
            self.tally.add(method.name, "lost by the client")
            return
        self.tally.add(method.name, error.code().name)
        if error.code() in BAD:
            self.tally.ends += 1
            self._report(method, requests, f"{error.code().name} {error.details()}")
        elif leaked := leak(error.details() or "", error.trailing_metadata()):
            self.tally.leaks += 1
            self._report(method, requests, f"{error.code().name} revealed {leaked}")

    def _report(self, method: MethodDescriptor, requests: Sequence[bytes], what: str) -> None:
        if len(self.tally.wrong) < MOST_KEPT:
            asked = [base64.b64encode(request[:300]).decode() for request in requests]
            self.tally.wrong.append(f"{method.name}: {what}, asked with {asked}")
            print(self.tally.wrong[-1], flush=True)


def leak(sentence: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """Return what a status must not reveal, or None."""
    if sentence and sentence not in SENTENCES and not sentence.startswith(OF_GRPC):
        return repr(sentence)
    for _, value in metadata or ():
        data = value if isinstance(value, bytes) else value.encode()
        said = FORMS.search(data.decode(errors="replace"))
        found = [said[0].encode()] if said else [it for it in (*TELLTALES, CANARY) if it in data]
        if found:
            return repr(data)
    return None


def _channel(address: str, number: int) -> grpc.aio.Channel:
    # Channels with equal options share a connection.
    return grpc.aio.insecure_channel(address, options=[("fuzzer", number)])


def _weight(name: str) -> float:
    if name in {"DeleteUser", "PurgeUser", "DeactivateUser"}:
        return 0.3  # so that there are enough users
    # A password costs more than everything else of many calls.
    return 0.3 if name in PASSWORD_METHODS else 1.0


def _count(method: MethodDescriptor, chance: random.Random) -> int:
    return chance.randrange(6) if method.client_streaming else 1


def _begun(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[bytes],
    chance: random.Random,
) -> Any:
    path = f"/{method.containing_service.full_name}/{method.name}"
    timeout = chance.uniform(0.001, 0.05) if chance.random() < 0.01 else DEADLINE
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    begin: Any = kinds[method.client_streaming, method.server_streaming](path)
    return begin(requests if method.client_streaming else requests[0], timeout=timeout)


async def fuzz(folder: Path, seed: int, calls: int) -> Tally:
    """Fuzz a separate server on a separate database."""
    with EmbeddedPostgres(folder, settings={"fsync": "off"}) as postgres:
        Migrations(postgres.url()).upgrade()
        url = postgres.url()
        with serving(
            limits=IMPATIENT, cwd=folder, TAMATAR_DATABASE_URL=url, TAMATAR_LOG_LEVEL="info"
        ) as server:
            fuzzer = Fuzzer(server.addresses[0], seed)
            running = asyncio.create_task(_print_progress(fuzzer, calls))
            # An interrupted run still prints its results.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, fuzzer.stop)
            tally = await fuzzer.run(calls)
            running.cancel()
            if server.process.poll() is not None:
                tally.wrong.append("the server has ended")
        for line in _logged(folder):
            tally.wrong.append(line)
            print(line)
    return tally


async def _print_progress(fuzzer: Fuzzer, calls: int) -> None:
    """Print the progress from time to time."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(60)
        done, wrong = fuzzer.tally.calls, len(fuzzer.tally.wrong)
        rate = done / (time.monotonic() - began)
        print(f"  {done} of {calls} calls, {rate:.0f}/s, {wrong} wrong", flush=True)


def _logged(folder: Path) -> Sequence[str]:
    """Return the lines of servers in a folder that report crashes or hold secrets."""
    wrong = []
    for output in folder.glob("output-*"):
        with output.open(errors="replace") as lines:
            found = (line for line in lines if "Traceback" in line or FORMS.search(line))
            wrong += [f"logged: {line[:300]}" for line in itertools.islice(found, MOST_KEPT)]
    return wrong


def main() -> int:
    """Fuzz, print the results, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    given = parser.parse_args()
    print(f"seed {given.seed}:", flush=True)
    with tempfile.TemporaryDirectory(prefix="tamatar-fuzz-") as folder:
        tally = uvloop.run(fuzz(Path(folder), given.seed, given.calls))
    print(tally, flush=True)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
