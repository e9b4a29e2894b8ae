"""Signing in: beside bcrypt alone, and what it does to the other calls."""

import asyncio
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import uvloop
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from benchmarks.bench import Bench
from benchmarks.calls import Call, session_calls
from benchmarks.client import cycle, paced
from benchmarks.machine import cores
from benchmarks.processes import finished, started
from benchmarks.report import Row, at_least, at_most
from benchmarks.samples import BenchmarkError, Sample, p99
from benchmarks.servers import BCRYPT_COST, HASH_THREADS
from benchmarks.sign_in_clients import Met, sign_in

CLIENTS = 50
VALIDATIONS = 200
"""ValidateSession calls a second while the clients sign in."""
HEALTH_CHECKS = 20

SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING)
HEALTH = Call(
    "/grpc.health.v1.Health/Check",
    lambda _: HealthCheckRequest().SerializeToString(),
    lambda _, encoded: HealthCheckResponse.FromString(encoded) == SERVING,
)


def signing_in(bench: Bench) -> list[Row]:
    """Measure, and tell what is to be reached."""
    ratio = _beside_bcrypt(bench)
    threads = f"{HASH_THREADS} thread{'s' if HASH_THREADS > 1 else ''}"
    bench.say(f"{CLIENTS} clients sign in without pause")
    validations, health, met = uvloop.run(_storm(bench))
    rows = [
        at_least(f"CreateSession / bcrypt alone, a second, {threads}", 0.95, ratio),
        _milliseconds("ValidateSession p99", p99(validations), 25),
        _milliseconds("health p99", p99(health), 50),
    ]
    if met.refused:
        latest = Sample(latencies=sorted(met.refused), seconds=1, calls=len(met.refused))
        rows.append(_milliseconds("p99 of the refusals (SERVER_BUSY)", p99(latest), 50))
    return rows


def _milliseconds(what: str, seconds: float, reach: float) -> Row:
    what = f"{what} while {CLIENTS} clients sign in"
    return at_most(what, reach, seconds * 1e3, unit=" ms", digits=1)


def _beside_bcrypt(bench: Bench) -> float:
    ratios, clients = [], HASH_THREADS * 3
    seconds = bench.plan.hashing * max(1, HASH_THREADS / cores())
    for number in range(bench.plan.rounds):
        bench.say(f"bcrypt alone and CreateSession, round {number + 1} of {bench.plan.rounds}")
        alone = _bcrypt_alone(seconds)
        met = uvloop.run(sign_in(bench.real.address, clients, seconds))
        _check(met)
        ratios.append(_rate(met.signed_in) / alone)
    return statistics.median(ratios)


def _bcrypt_alone(seconds: float) -> float:
    """Give the hashes a second that the threads reach."""
    hashed = bcrypt.hashpw(b"x" * 64, bcrypt.gensalt(BCRYPT_COST))
    ended: list[float] = []
    end = time.perf_counter() + seconds

    def one_after_another() -> None:
        while time.perf_counter() < end:
            bcrypt.checkpw(b"x" * 64, hashed)
            ended.append(time.perf_counter())

    with ThreadPoolExecutor(HASH_THREADS) as threads:
        for _ in range(HASH_THREADS):
            threads.submit(one_after_another)
    return _rate(ended)


def _rate(moments: list[float]) -> float:
    """Give how many there were a second, from the first moment to the last."""
    moments = sorted(moments)
    # The first hash of each thread began before the time that is looked at.
    if len(moments) <= HASH_THREADS:
        raise BenchmarkError("too few passwords were hashed: this machine is slow or busy")
    return (len(moments) - HASH_THREADS) / (moments[-1] - moments[HASH_THREADS - 1])


async def _storm(bench: Bench) -> tuple[Sample, Sample, Met]:
    seconds, output = bench.plan.storm, bench.servers.folder / "sign-ins"
    command = [sys.executable, "-m", "benchmarks.sign_in_clients"]
    command += [bench.real.address, str(CLIENTS), str(seconds + 1)]
    validate, over = session_calls(bench.plan.users)["ValidateSession"], asyncio.Event()
    with started(command, output=output) as process:
        await asyncio.sleep(1.5)  # until the clients are at it
        asyncio.get_running_loop().call_later(seconds, over.set)
        numbers = cycle(range(bench.plan.users))
        validations, health = await asyncio.gather(
            paced(bench.real, validate, numbers, rate=VALIDATIONS, until=over),
            paced(bench.real, HEALTH, cycle(range(1)), rate=HEALTH_CHECKS, until=over),
        )
        await asyncio.to_thread(finished, process, output)
    met = Met(**json.loads(output.read_text()))
    _check(met)
    return validations, health, met


def _check(met: Met) -> None:
    if met.others:
        raise BenchmarkError(f"CreateSession was refused: {', '.join(sorted(set(met.others)))}")
