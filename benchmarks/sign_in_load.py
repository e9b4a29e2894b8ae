"""Sign-ins beside bcrypt alone, and their effect on other calls."""

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
from benchmarks.processes import running_process, wait_for_success
from benchmarks.report import Row, at_least, at_most
from benchmarks.samples import BenchmarkError, Sample, p99
from benchmarks.servers import BCRYPT_COST, HASH_THREADS
from benchmarks.sign_in_clients import SignInResults, sign_in

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


def measure_sign_ins(bench: Bench) -> list[Row]:
    """Measure sign-ins, and return the figures that have targets."""
    ratio = _beside_bcrypt(bench)
    threads = f"{HASH_THREADS} thread{'s' if HASH_THREADS > 1 else ''}"
    bench.report_progress(f"{CLIENTS} clients sign in without pause")
    validations, health, results = uvloop.run(_concurrent_sign_ins(bench))
    rows = [
        at_least(f"CreateSession / bcrypt alone, a second, {threads}", 0.95, ratio),
        _milliseconds("ValidateSession p99", p99(validations), 25),
        _milliseconds("health p99", p99(health), 50),
    ]
    if results.refused:
        latest = Sample(latencies=sorted(results.refused), seconds=1, calls=len(results.refused))
        rows.append(_milliseconds("p99 of the refusals (SERVER_BUSY)", p99(latest), 50))
    return rows


def _milliseconds(label: str, seconds: float, target: float) -> Row:
    label = f"{label} while {CLIENTS} clients sign in"
    return at_most(label, target, seconds * 1e3, unit=" ms", digits=1)


def _beside_bcrypt(bench: Bench) -> float:
    ratios, clients = [], HASH_THREADS * 3
    seconds = bench.plan.hashing_seconds * max(1, HASH_THREADS / cores())
    for number in range(bench.plan.rounds):
        bench.report_progress(
            f"bcrypt alone and CreateSession, round {number + 1} of {bench.plan.rounds}"
        )
        bcrypt_rate = _bcrypt_alone(seconds)
        results = uvloop.run(sign_in(bench.real.address, clients, seconds))
        _check(results)
        ratios.append(_rate(results.signed_in) / bcrypt_rate)
    return statistics.median(ratios)


def _bcrypt_alone(seconds: float) -> float:
    """Return the hashes a second that the threads reach."""
    digest = bcrypt.hashpw(b"x" * 64, bcrypt.gensalt(BCRYPT_COST))
    hashed_at: list[float] = []
    end = time.perf_counter() + seconds

    def one_after_another() -> None:
        while time.perf_counter() < end:
            bcrypt.checkpw(b"x" * 64, digest)
            hashed_at.append(time.perf_counter())

    with ThreadPoolExecutor(HASH_THREADS) as threads:
        for _ in range(HASH_THREADS):
            threads.submit(one_after_another)
    return _rate(hashed_at)


def _rate(moments: list[float]) -> float:
    """Return the events a second between the first and the last."""
    moments = sorted(moments)
    # The first hash of each thread began before the measured time.
    if len(moments) <= HASH_THREADS:
        raise BenchmarkError("too few passwords were hashed: this machine is slow or busy")
    return (len(moments) - HASH_THREADS) / (moments[-1] - moments[HASH_THREADS - 1])


async def _concurrent_sign_ins(bench: Bench) -> tuple[Sample, Sample, SignInResults]:
    seconds, output = bench.plan.paced_seconds, bench.servers.folder / "sign-ins"
    command = [sys.executable, "-m", "benchmarks.sign_in_clients"]
    command += [bench.real.address, str(CLIENTS), str(seconds + 1)]
    validate, stop = session_calls(bench.plan.users)["ValidateSession"], asyncio.Event()
    with running_process(command, output=output) as process:
        await asyncio.sleep(1.5)  # until the clients have started
        asyncio.get_running_loop().call_later(seconds, stop.set)
        numbers = cycle(range(bench.plan.users))
        validations, health = await asyncio.gather(
            paced(bench.real, validate, numbers, rate=VALIDATIONS, until=stop),
            paced(bench.real, HEALTH, cycle(range(1)), rate=HEALTH_CHECKS, until=stop),
        )
        await asyncio.to_thread(wait_for_success, process, output)
    results = SignInResults(**json.loads(output.read_text()))
    _check(results)
    return validations, health, results


def _check(results: SignInResults) -> None:
    if results.others:
        raise BenchmarkError(f"CreateSession was refused: {', '.join(sorted(set(results.others)))}")
